//! `weft plan`: what `up` would do.

use weft_model::view::{ApplyRequest, Impact, PlanView, StepAction};

use crate::args::FileArg;
use crate::commands::Context;
use crate::commands::scratch::Scratch;
use crate::failure::{Failure, Result};
use crate::file;
use crate::link::Link;
use crate::output::{self, Style};
use crate::table::Table;

pub(crate) async fn run(context: &Context, arg: FileArg) -> Result {
    let path = file::meant(arg.file);
    let request =
        ApplyRequest { owner: file::owner(&path), world: file::load(&path, &context.paths)?, if_revision: None };
    let plan = match Link::to_running(&context.paths).await {
        None if context.is_dormant() => {
            Scratch::open(&context.paths)?.controller.plan(&request).map_err(Failure::Problems)?
        }
        link => {
            let mut link = match link {
                Some(link) => link,
                None => Link::open(&context.paths).await?,
            };
            link.ask(async |client| client.plan(&request).await).await?
        }
    };
    match context.json {
        true => output::json(&plan),
        false => {
            output::data(&render(&plan))?;
            if plan.steps.is_empty() {
                output::say("nothing to do");
            }
            Ok(())
        }
    }
}

/// A plan for people.
pub(crate) fn render(plan: &PlanView) -> String {
    let mut text = String::new();
    for drift in &plan.drift {
        text += &format!("{}  {} {} {}\n", Style::Warning.paint("drift"), drift.kind, drift.name, drift.detail);
    }
    let mut table = Table::plain();
    for step in &plan.steps {
        let action = match step.action {
            StepAction::Create => Style::Good.paint("create"),
            StepAction::Update => Style::Warning.paint("update"),
            StepAction::Start => Style::Good.paint("start"),
            StepAction::Stop => Style::Error.paint("stop"),
            StepAction::Remove => Style::Error.paint("remove"),
        };
        let impact = match step.impact {
            Impact::Hitless => "",
            Impact::ReLease => " (re-lease: clients hear of it at once where they can be told, else when they renew)",
            Impact::Restart => " (whoever uses it is interrupted)",
        };
        let detail = output::printable(&step.detail) + impact;
        table.row([action, step.kind.clone(), step.name.clone(), detail]);
    }
    text + &table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::view::{DriftView, StepView};

    #[test]
    fn a_plan_for_people() {
        let step = |action, kind: &str, name: &str, detail: &str, impact| StepView {
            action,
            kind: kind.to_owned(),
            name: name.to_owned(),
            detail: detail.to_owned(),
            impact,
            provenance: None,
        };
        let plan = PlanView {
            revision: 1,
            steps: vec![
                step(StepAction::Create, "network", "office", "nat, 10.20.0.0/24", Impact::Hitless),
                step(StepAction::Stop, "vm", "web", "its memory changes", Impact::Restart),
            ],
            drift: vec![DriftView {
                kind: "vm".to_owned(),
                name: "db".to_owned(),
                detail: "stopped by `weft vm stop db`".to_owned(),
            }],
        };
        expect_test::expect![[r#"
            drift  vm db stopped by `weft vm stop db`
            create  network  office  nat, 10.20.0.0/24
            stop    vm       web     its memory changes (whoever uses it is interrupted)
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&render(&plan)).to_string());
    }
}
