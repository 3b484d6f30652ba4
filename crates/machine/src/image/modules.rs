//! Which kernel modules go into an image, and in which order they are loaded.

use std::collections::BTreeMap;

/// Modules by name, each with the names of those that it needs.
pub(super) type Needs = BTreeMap<String, Vec<String>>;

/// A module that is needed but is not there, or one that needs itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OrderError {
    /// Not there.
    Missing(String),
    /// Needs itself, perhaps through others.
    Circle(String),
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "the kernel module `{name}` is not in it"),
            Self::Circle(name) => write!(f, "the kernel module `{name}` needs itself"),
        }
    }
}

/// The `wanted` modules and all that they need, each after what it needs.
pub(super) fn load_order(needs: &Needs, wanted: &[&str]) -> Result<Vec<String>, OrderError> {
    let mut order = Vec::new();
    for name in wanted {
        visit(needs, name, &mut Vec::new(), &mut order)?;
    }
    Ok(order)
}

fn visit(needs: &Needs, name: &str, way: &mut Vec<String>, order: &mut Vec<String>) -> Result<(), OrderError> {
    if order.iter().any(|done| done == name) {
        return Ok(());
    }
    if way.iter().any(|above| above == name) {
        return Err(OrderError::Circle(name.to_owned()));
    }
    way.push(name.to_owned());
    for needed in needs.get(name).ok_or_else(|| OrderError::Missing(name.to_owned()))? {
        visit(needs, needed, way, order)?;
    }
    way.pop();
    order.push(name.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `needs` is written like `a:b,c d:`.
    fn check(needs: &str, wanted: &[&str], expected: Result<&str, OrderError>) {
        let needs = needs.split_whitespace().map(|entry| {
            let (name, needed) = entry.split_once(':').unwrap();
            (name.to_owned(), needed.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        });
        let order = load_order(&needs.collect(), wanted).map(|order| order.join(" "));
        assert_eq!(order, expected.map(str::to_owned));
    }

    #[test]
    fn each_after_what_it_needs() {
        check("pci:ring,virtio ring:virtio virtio: net:virtio x:", &["net", "pci"], Ok("virtio net ring pci"));
        check("a:", &["a", "a"], Ok("a"));
        check("a:b", &["a"], Err(OrderError::Missing("b".to_owned())));
        check("a:b b:c c:a", &["a"], Err(OrderError::Circle("a".to_owned())));
    }
}
