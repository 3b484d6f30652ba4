//! From one configuration to the next.

use weft_types::PortId;

use super::Switch;
use crate::bindings::Place;
use crate::difference::Difference;
use crate::table::{Newcomer, Tables};
use crate::{Addresses, Config, ConfigError, validate};

impl Switch {
    /// Everything for which [`configure`](Self::configure) would refuse `config`.
    pub fn problems(&self, config: &Config) -> Vec<ConfigError> {
        self.problems_with(config, self.difference(config).as_ref())
    }

    /// Becomes `config`, whole. Ports that stay keep their counters, their receive filters as far as they still may
    /// have them, and what was learned; captures go on; what was cached counts no more. A few ports more, less or
    /// otherwise cost what they cost, however many there are besides.
    ///
    /// # Errors
    /// Every problem of the configuration; then nothing has changed.
    pub fn configure(&mut self, config: Config) -> Result<(), Vec<ConfigError>> {
        let difference = self.difference(&config);
        let problems = self.problems_with(&config, difference.as_ref());
        if !problems.is_empty() {
            return Err(problems);
        }
        let whole = if cfg!(debug_assertions) { self.built(&config).content() } else { Vec::new() };
        match difference {
            Some(difference) => self.change(&difference),
            None => self.begin_anew(&config),
        }
        debug_assert_eq!(self.tables.content(), whole, "a change makes what building anew would");
        self.config = config;
        self.knowledge.connections.generation += 1;
        self.rule_counts =
            self.tables.rules().map(|rules| vec![0; rules.map_or(0, |rules| rules.acl.rules.len())]).collect();
        self.meters.set_used(self.tables.polices());
        if let Some(cache) = &mut self.cache {
            cache.forget_all(self.tables.vswitches());
        }
        self.outputs.clear();
        self.outputs.reserve(self.tables.most_receivers());
        Ok(())
    }

    /// What is different in `config`, if that is little.
    fn difference(&self, config: &Config) -> Option<Difference> {
        let is_alike = config.vswitches == self.config.vswitches;
        if is_alike { Difference::between(&self.config.ports, &config.ports) } else { None }
    }

    fn problems_with(&self, config: &Config, difference: Option<&Difference>) -> Vec<ConfigError> {
        let current = self.config.generation;
        let is_harmless = difference.is_some_and(|difference| validate::is_harmless(&self.tables, difference));
        if is_harmless && config.generation >= current {
            debug_assert_eq!(validate::problems(config, current), []);
            return Vec::new();
        }
        validate::problems(config, current)
    }

    /// Has a few ports go and come.
    fn change(&mut self, Difference { gone, come }: &Difference) {
        let newcomers = come.iter().map(|config| Newcomer::new(config.clone(), &self.tables)).collect();
        self.tables.change(gone, newcomers);
        if !gone.is_empty() {
            self.keep_what_ports_own();
            self.keep_connections(gone);
        }
        let has_fixed =
            |addresses: &Addresses| matches!(addresses, Addresses::Known { fixed, .. } if !fixed.is_empty());
        if !gone.is_empty() || come.iter().any(|port| has_fixed(&port.addresses)) {
            self.keep_bindings();
        }
    }

    /// Builds everything from `config`.
    fn begin_anew(&mut self, config: &Config) {
        self.captures.retain(|(home, _)| config.vswitches.iter().any(|vswitch| vswitch.id == *home));
        self.tables = self.built(config);
        self.keep_what_ports_own();
        self.keep_connections(&self.knowledge.connections.owners());
        self.keep_bindings();
    }

    /// The tables of `config`, with what ports registered that were there before.
    fn built(&self, config: &Config) -> Tables {
        let mut tables = Tables::new(&config.vswitches, self.seed);
        for (vswitch, _) in &self.captures {
            if let Some(place) = tables.place(*vswitch) {
                tables.set_mirrors(place, self.mirrors_at(config, *vswitch));
            }
        }
        let newcomers = config.ports.iter().map(|port| Newcomer::new(port.clone(), &self.tables));
        tables.change(&[], newcomers.collect());
        tables
    }

    /// Forgets what was counted, learned and measured at ports that are gone, or otherwise.
    fn keep_what_ports_own(&mut self) {
        let tables = &self.tables;
        self.counters.retain(|port| tables.index(port).is_some());
        self.drop_log.retain(|port| tables.index(port).is_some());
        self.meters.retain(|port| tables.index(port).map(|index| &tables.port(index).config.rates));
        self.answers_left.retain(|port, _| tables.index(*port).is_some());
        self.knowledge.learned.retain(|id, station| {
            let port = tables.index(id).map(|index| tables.port(index));
            port.is_some_and(|port| {
                let config = &port.config;
                config.learn > 0 && config.vswitch == station.vswitch && port.carries(station.segment)
            })
        });
    }

    /// Forgets the addresses that ports got where they are no more, or that are configured for others now.
    fn keep_bindings(&mut self) {
        let tables = &self.tables;
        let may_keep = |id, place: &Place| {
            tables.index(id).is_some_and(|index| {
                let port = tables.port(index);
                let is_here = port.config.vswitch == place.vswitch && port.carries(place.segment);
                is_here && !tables.is_fixed(port.vswitch, place.segment, place.address, index)
            })
        };
        let limit = |id| tables.index(id).map_or(0, |index| tables.port(index).config.addresses.learn());
        self.knowledge.bindings.retain(may_keep, limit);
    }

    /// Ends the connections that these ports began where they are no more.
    fn keep_connections(&mut self, ports: &[PortId]) {
        let tables = &self.tables;
        self.knowledge.connections.retain(ports, |id, tuple| {
            tables.index(id).is_some_and(|index| {
                let port = tables.port(index);
                port.config.vswitch == tuple.vswitch && port.carries(tuple.segment)
            })
        });
    }
}
