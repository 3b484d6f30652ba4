//! What the command line says, word for word.

use std::fs;
use std::process::Stdio;

use expect_test::{Expect, expect};

use crate::bed::Home;

#[track_caller]
fn check(home: &Home, args: &[&str], expected: &Expect) {
    expected.assert_eq(&home.said(args));
}

#[test]
fn help() {
    check(
        &Home::new(),
        &["--help"],
        &expect![[r#"
            exit 0
            --- stdout
            Virtual machines and the networks between them, from one file

            Usage: weft [OPTIONS] <COMMAND>

            Commands:
              up           Make the world what a file says, and wait until every machine is ready
              undo         Make what a file made become what it was before it was changed last
              plan         Show what `up` would do, and what has drifted from the file. Changes nothing
              down         Remove everything that a file made
              enable       Have a file's machines come back when the host does
              disable      Have a file's machines come back no more
              boot         Start the enabled machines that went down with the host, and wait until they are
                           ready
              halt         Shut all machines down because the host goes down, and wait until they are
              ls           Show everything
              top          Show what machines take of the processors, memory, disks and networks, again and
                           again. Ctrl-C ends it
              vm           Work with machines
              network      Work with networks
              port         Work with ports: where machines plug into networks
              forward      Work with port forwards: what of the host's ports leads to machines
              router       Look at routers: what joins networks
              names        List the names of machines, and say how this host finds them by name
              lease        Work with DHCP leases
              image        Work with images
              exec         Run a command in a machine
              shell        Open a shell that stands on a network, without root: in a network namespace of its
                           own, with an address and a name
              console      Connect to a machine's serial console; Ctrl-] leaves
              screen       Show a machine's screen to a VNC viewer, or take a picture of it (`display = "vnc"`
                           in the file)
              logs         Show what a machine's serial console has said since its last start
              events       Show what happened
              why          Explain what the switch would do with a packet, and which declarations make it so. No
                           packet is sent
              capture      Copy frames as they pass, as pcapng, into another program or a file. Ctrl-C ends it
              metrics      Write every counter in the text format of Prometheus. The daemon serves the same at
                           `/metrics`
              switch       Run one virtual switch on its own, for machines and namespaces that somebody else
                           looks after
              doctor       Say what this host can and cannot do, and what to install
              completions  Write a shell's completions to stdout
              man          Write the man pages into a folder, or `weft(1)` to stdout
              help         Print this message or the help of the given subcommand(s)

            Options:
                  --json     Write data as JSON to stdout, and errors as JSON to stderr
              -h, --help     Print help
              -V, --version  Print version

            Exit codes: 0 it is done, 1 it failed, 2 the command line or the file is wrong. `exec` exits as its
            command did, with 128 and the signal's number if one killed it, and with 125 if it could not run it.

            WEFT_HOME=DIR keeps a world of its own in DIR.
        "#]],
    );
}

#[test]
fn help_of_exec() {
    check(
        &Home::new(),
        &["exec", "--help"],
        &expect![[r#"
        exit 0
        --- stdout
        Run a command in a machine.

        stdin, stdout, stderr and the exit code pass through, and so do SIGINT, SIGTERM, SIGHUP and SIGQUIT.

        Usage: weft exec [OPTIONS] <VM> [CMD]...

        Arguments:
          <VM>
                  The machine

          [CMD]...
                  The command and its arguments; a shell if left out

        Options:
          -t, --tty
                  Give the command a terminal. Done without being asked where no command is named and this
                  is a terminal

          -n, --no-stdin
                  Give the command no input

          -e, --env <NAME=VALUE>
                  Set a variable

              --cwd <DIR>
                  The folder to run it in

              --json
                  Write data as JSON to stdout, and errors as JSON to stderr

          -h, --help
                  Print help (see a summary with '-h')
    "#]],
    );
}

#[test]
fn an_empty_world_needs_no_daemon() {
    let home = Home::new();
    check(
        &home,
        &["ls"],
        &expect![[r#"
        exit 0
        --- stderr
        there is nothing; `weft up FILE` makes something
    "#]],
    );
    check(
        &home,
        &["vm", "ls", "--json"],
        &expect![[r#"
        exit 0
        --- stdout
        []
    "#]],
    );
    check(
        &home,
        &["vm", "ls"],
        &expect![[r#"
        exit 0
        --- stdout
        VM  STATE  ADDRESSES  IMAGE  MEMORY  CPUS  ENGINE  FROM
    "#]],
    );
    check(
        &home,
        &["lease", "ls", "--json"],
        &expect![[r#"
        exit 0
        --- stdout
        []
    "#]],
    );
    check(
        &home,
        &["down"],
        &expect![[r#"
        exit 0
        --- stderr
        nothing to do: there is nothing that a file made
    "#]],
    );
    check(
        &home,
        &["down", "--all", "--json"],
        &expect![[r#"
        exit 0
        --- stdout
        {
          "operations": []
        }
    "#]],
    );
    check(
        &home,
        &["exec", "web", "true"],
        &expect![[r#"
        exit 125
        --- stderr
        error: there is no VM `web`
        hint: `weft up FILE` makes those that a file declares
    "#]],
    );
    check(
        &home,
        &["vm", "stop", "web"],
        &expect![[r#"
        exit 1
        --- stderr
        error: there is no VM `web`
        hint: `weft up FILE` makes those that a file declares
    "#]],
    );
    check(
        &home,
        &["events", "--json"],
        &expect![[r#"
        exit 0
        --- stdout
        []
    "#]],
    );
    assert!(fs::read_dir(home.path()).unwrap().next().is_none(), "nothing was made for it");
}

#[test]
fn a_plan_changes_nothing() {
    let home = Home::new();
    fs::write(home.path().join("weft.toml"), "[network.lan]\nsubnet = '10.1.0.0/24'\n").unwrap();
    check(
        &home,
        &["plan"],
        &expect![[r#"
        exit 0
        --- stdout
        start   switch   switch  the virtual switch's process
        create  network  lan     nat, 10.1.0.0/24
    "#]],
    );
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["weft.toml"]);
}

#[test]
fn a_bad_file_is_told_whole() {
    let home = Home::new();
    fs::write(home.path().join("weft.toml"), "[vm.a]\nnics = ['nowhere']\nmemroy = '1GiB'\n").unwrap();
    check(
        &home,
        &["up"],
        &expect![[r#"
        exit 2
        --- stderr
        error: there is no network `nowhere`
         --> weft.toml:2:9
          |
        2 | nics = ['nowhere']
          |         ^^^^^^^^^
        hint: declare it: `[network.nowhere]`

        error: `memroy` is not a key of a VM
         --> weft.toml:3:1
          |
        3 | memroy = '1GiB'
          | ^^^^^^
        hint: did you mean `memory`?

        2 problems in weft.toml; nothing was changed
    "#]],
    );
    check(
        &home,
        &["plan", "--json"],
        &expect![[r#"
        exit 2
        --- stderr
        {
          "code": "missing-network",
          "problems": [
            {
              "code": "missing-network",
              "detail": "line 2, column 9",
              "hint": "declare it: `[network.nowhere]`",
              "provenance": {
                "line": 2,
                "source": "weft.toml"
              },
              "title": "there is no network `nowhere`"
            },
            {
              "code": "unknown-key",
              "detail": "line 3, column 1",
              "hint": "did you mean `memory`?",
              "provenance": {
                "line": 3,
                "source": "weft.toml"
              },
              "title": "`memroy` is not a key of a VM"
            }
          ],
          "title": "there is no network `nowhere`"
        }
    "#]],
    );
    check(
        &home,
        &["up", "nothing.toml"],
        &expect![[r#"
        exit 2
        --- stderr
        error: cannot read nothing.toml: No such file or directory (os error 2)
         --> nothing.toml
        hint: name the file (`weft up FILE`), or write `weft.toml` here; the README shows one
    "#]],
    );
}

#[test]
fn mistakes_on_the_command_line() {
    let home = Home::new();
    check(
        &home,
        &["exec"],
        &expect![[r#"
        exit 2
        --- stderr
        error: the following required arguments were not provided:
          <VM>

        Usage: weft exec <VM> [CMD]...

        For more information, try '--help'.
    "#]],
    );
    check(
        &home,
        &["exec", "Web Server", "true"],
        &expect![[r#"
        exit 2
        --- stderr
        error: invalid value 'Web Server' for '<VM>': `Web Server` is not a host name: use a-z, 0-9 and `-` inside, for example `web-server`

        For more information, try '--help'.
    "#]],
    );
    check(
        &home,
        &["exec", "-e", "novalue", "web", "true"],
        &expect![[r#"
        exit 2
        --- stderr
        error: invalid value 'novalue' for '--env <NAME=VALUE>': write NAME=VALUE

        For more information, try '--help'.
    "#]],
    );
    check(
        &home,
        &["down", "--all", "x.toml"],
        &expect![[r#"
        exit 2
        --- stderr
        error: the argument '--all' cannot be used with '[FILE]'

        Usage: weft down --all [FILE]

        For more information, try '--help'.
    "#]],
    );
}

#[test]
fn a_home_that_cannot_be_used() {
    let home = Home::new();
    let said = |value: &str| {
        let output = home.weft(&["ls"]).env("WEFT_HOME", value).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said("relative");
    assert_eq!(code, Some(1));
    assert!(text.contains("not an absolute path") && text.contains("hint:"), "{text}");
}

#[test]
fn a_daemon_that_cannot_start_is_quoted() {
    let home = Home::new();
    fs::create_dir_all(home.path().join("state")).unwrap();
    fs::write(home.path().join("state/store.db"), "this is not SQLite, and longer than its head is".repeat(100))
        .unwrap();
    let output = home.weft(&["ls"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the daemon ended as soon as it was started"), "{text}");
    assert!(text.contains("store.db"), "{text}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = Home::new();
    let mut child = home.weft(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}
