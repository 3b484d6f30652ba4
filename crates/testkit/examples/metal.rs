//! Boots virtual bare metal for whoever develops: a shell on it, or a script of theirs. `make metal` runs it.

use std::process::ExitCode;

use weft_testkit::Metal;

const USAGE: &str = "usage: metal [--kvm] [--memory MIB] [--processors N] [--with PROGRAM]... [FOLDER]

Boots a machine with Debian's kernel under emulation. With FOLDER, that lies on it as /lab, and FOLDER/run is run there;
else this terminal gets a shell on it. --kvm: with /dev/kvm; --with: with a program of this host, by name or path.";

fn main() -> ExitCode {
    let Some((metal, script)) = asked(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let code = match script {
        true => metal.run("sh run").map(|outcome| outcome.code),
        false => metal.interact(),
    };
    match code {
        Ok(Some(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Ok(None) => {
            eprintln!("metal: the machine did not come to the script's end");
            ExitCode::FAILURE
        }
        Err(missing) => {
            eprintln!("metal: {missing}");
            ExitCode::FAILURE
        }
    }
}

/// The machine that these arguments describe, and whether there is a script for it.
fn asked(mut arguments: impl Iterator<Item = String>) -> Option<(Metal, bool)> {
    let mut metal = Metal::new().modules(&["tun"]);
    let mut script = false;
    while let Some(argument) = arguments.next() {
        metal = match argument.as_str() {
            "--kvm" => metal.kvm(),
            "--memory" => metal.memory_mib(arguments.next()?.parse().ok()?),
            "--processors" => metal.processors(arguments.next()?.parse().ok()?),
            "--with" => metal.host_programs(&[&arguments.next()?]),
            folder if !folder.starts_with('-') && !script => {
                script = true;
                metal.folder(folder)
            }
            _ => return None,
        };
    }
    Some((metal, script))
}
