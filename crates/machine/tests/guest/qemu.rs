//! The QEMU guest agent, played by a thread that really runs the commands.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use weft_machine::guest::session::{self, ClientFrame, ExitStatus, ServerFrame};
use weft_machine::guest::{ExecRequest, GuestError, QemuGuestAgent, Size, Tty};

use crate::bed::{LIMIT, exec, finish, sh};

/// An agent behind a socket, whose answers go through `twist` first.
fn play(twist: impl Fn(&str, Value) -> String + Send + 'static) -> (QemuGuestAgent, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let mut children: HashMap<u64, Child> = HashMap::new();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut answers = stream.try_clone().unwrap();
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = line.strip_prefix(b"\xFF").unwrap_or(&line);
                let request: Value = serde_json::from_slice(line).unwrap();
                let name = request["execute"].as_str().unwrap();
                let answer = obey(name, &request["arguments"], &mut children);
                let mut bytes = twist(name, answer).into_bytes();
                if name == "guest-sync-delimited" {
                    // Half of an answer to somebody else comes first.
                    bytes.splice(0..0, *b"{\"return\": \xFF");
                }
                bytes.push(b'\n');
                if answers.write_all(&bytes).is_err() {
                    break;
                }
            }
        }
    });
    (QemuGuestAgent::connect(&path).unwrap(), folder)
}

fn obey(name: &str, arguments: &Value, children: &mut HashMap<u64, Child>) -> Value {
    match name {
        "guest-sync-delimited" => json!({ "return": arguments["id"] }),
        "guest-exec" => {
            let argv: Vec<&str> = arguments["arg"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
            let mut command = Command::new(arguments["path"].as_str().unwrap());
            command.args(argv).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            match command.spawn() {
                Ok(mut child) => {
                    let input = arguments["input-data"].as_str().map(base64).unwrap_or_default();
                    child.stdin.take().unwrap().write_all(&input).unwrap();
                    let pid = u64::from(child.id());
                    children.insert(pid, child);
                    json!({ "return": { "pid": pid } })
                }
                Err(error) => {
                    json!({ "error": { "class": "GenericError", "desc": format!("Failed to execute: {error}") } })
                }
            }
        }
        "guest-exec-status" => {
            let child = children.get_mut(&arguments["pid"].as_u64().unwrap()).unwrap();
            match child.try_wait().unwrap() {
                None => json!({ "return": { "exited": false } }),
                Some(status) => {
                    use std::os::unix::process::ExitStatusExt;
                    let mut output = Vec::new();
                    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
                    let output = to_base64(&output);
                    match status.signal() {
                        Some(signal) => json!({ "return": { "exited": true, "signal": signal, "out-data": output } }),
                        None => json!({ "return": { "exited": true, "exitcode": status.code(), "out-data": output } }),
                    }
                }
            }
        }
        _ => json!({ "return": {} }),
    }
}

/// Both by the system's own tool, so that not one mistake checks another.
fn base64(text: &str) -> Vec<u8> {
    filter(&["-d"], text.as_bytes())
}

fn to_base64(bytes: &[u8]) -> String {
    String::from_utf8(filter(&["-w0"], bytes)).unwrap()
}

fn filter(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut tool = Command::new("base64");
    let mut tool = tool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = tool.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        tool.wait_with_output().unwrap().stdout
    })
}

fn honest(_: &str, answer: Value) -> String {
    answer.to_string()
}

#[test]
fn commands_run_and_their_output_comes_at_the_end() {
    let (agent, _folder) = play(honest);
    agent.wait_ready(LIMIT).unwrap();
    let mut request = sh("cat; echo $A; pwd; exit 3");
    request.env = vec![("A".to_owned(), "b c".to_owned())];
    request.cwd = Some("/usr".to_owned());
    let mut stream = agent.exec(request).unwrap();
    session::write(&mut stream, &ClientFrame::Stdin(b"in\0\xFF\n".to_vec())).unwrap();
    session::write(&mut stream, &ClientFrame::StdinEof).unwrap();
    let ended = finish(&mut stream);
    assert_eq!(ended.stdout, b"in\0\xFF\nb c\n/usr\n");
    assert_eq!(ended.end, Some(Ok(ExitStatus::Code(3))));
    assert!(ended.notes[0].contains("its output comes when it has ended"), "{:?}", ended.notes);

    let mut stream = agent.exec(exec(&["echo", "no input"])).unwrap();
    assert_eq!(finish(&mut stream).stdout, b"no input\n", "a client that says nothing has no input");
    let mut stream = agent.exec(exec(&["/no-such-program"])).unwrap();
    assert_eq!(finish(&mut stream).end, Some(Ok(ExitStatus::Code(127))));
}

#[test]
fn signals_are_sent_and_terminals_refused() {
    let (agent, _folder) = play(honest);
    let mut stream = agent.exec(exec(&["sleep", "60"])).unwrap();
    session::write(&mut stream, &ClientFrame::StdinEof).unwrap();
    assert!(matches!(session::read(&mut stream).unwrap(), Some(ServerFrame::Note(_))));
    assert_eq!(session::read(&mut stream).unwrap(), Some(ServerFrame::Started));
    session::write(&mut stream, &ClientFrame::Signal(15)).unwrap();
    assert_eq!(finish(&mut stream).end, Some(Ok(ExitStatus::Signal(15))));

    let tty = Tty { size: Size { rows: 1, cols: 1 }, term: "x".to_owned() };
    let error = agent.exec(ExecRequest { tty: Some(tty), ..sh("true") }).unwrap_err();
    assert!(matches!(error, GuestError::Unsupported(_)) && error.to_string().contains("no terminal"), "{error}");
}

#[test]
fn liars_are_found_out() {
    for lie in
        ["nonsense", "{}", "{\"return\": {\"pid\": -5}}", "{\"return\": [1]}", "{\"error\": {\"desc\": \"never\"}}"]
    {
        let (agent, _folder) = play(move |name, answer| match name {
            "guest-exec" => lie.to_owned(),
            _ => answer.to_string(),
        });
        let mut stream = agent.exec(exec(&["true"])).unwrap();
        let end = finish(&mut stream).end;
        assert!(matches!(end, Some(Err(_))), "{lie}: {end:?}");
        agent.wait_ready(LIMIT).unwrap();
    }
}

#[test]
fn who_is_not_there_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port");
    let agent = QemuGuestAgent::connect(&path).unwrap();
    assert!(matches!(agent.wait_ready(Duration::from_millis(50)), Err(GuestError::Unreachable(_))));
    let _silent = UnixListener::bind(&path).unwrap();
    assert!(matches!(agent.wait_ready(Duration::from_millis(50)), Err(GuestError::NotReady { .. })));
}
