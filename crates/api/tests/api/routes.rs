//! What each route answers, to good requests and to bad ones.

use std::time::Duration;

use expect_test::{Expect, expect};
use weft_api::{ClientError, LogQuery};
use weft_model::World;
use weft_model::view::ApplyRequest;

use crate::bed::Bed;

/// The status, and the code and title of each problem.
fn check(bed: &Bed, (method, path, headers, body): (&str, &str, &str, &str), expected: &Expect) {
    let (status, body) = bed.ask(method, path, headers, body);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| body.into());
    let mut said = status;
    for problem in body["problems"].as_array().into_iter().flatten() {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        said += &format!("\n{}: {}\n  {}", text("code"), text("title"), text("hint"));
    }
    if body["problems"].is_null() {
        said += &format!("\n{body}");
    }
    expected.assert_eq(&said);
}

#[test]
fn an_empty_world_has_empty_lists() {
    let bed = Bed::new();
    for path in ["/v1/networks", "/v1/vms", "/v1/ports", "/v1/leases", "/v1/rules", "/v1/operations", "/v1/events"] {
        check(
            &bed,
            ("GET", path, "", ""),
            &expect![[r#"
            200 OK
            []"#]],
        );
    }
    bed.with(async |client| {
        assert_eq!(client.about().pid, std::process::id());
        let world = client.world().await.unwrap();
        assert_eq!((world.vms.len(), world.switch), (0, None));
        assert_eq!(world.daemon.pid, std::process::id());
    });
}

#[test]
fn what_is_wrong_with_a_request_is_a_problem() {
    let bed = Bed::new();
    let not_found = expect![[r#"
        404 Not Found
        no-such-route: there is no `/v2`
          docs/openapi.json lists the routes"#]];
    check(&bed, ("GET", "/v2", "", ""), &not_found);
    let method = expect![[r#"
        405 Method Not Allowed
        no-such-method: `/v1/vms` does not take PUT
          docs/openapi.json lists the methods"#]];
    check(&bed, ("PUT", "/v1/vms", "", ""), &method);
    let json = expect![[r#"
        400 Bad Request
        bad-json: the body is not what this route takes: expected value at line 1 column 1
          docs/openapi.json describes it"#]];
    check(&bed, ("PUT", "/v1/world", "", "hello"), &json);
    let unknown_field = expect![[r#"
        422 Unprocessable Entity
        bad-body: the body is not what this route takes: unknown field `hello`, expected one of `owner`, `world`, `if_revision` at line 1 column 8
          docs/openapi.json describes it"#]];
    check(&bed, ("POST", "/v1/plan", "", r#"{"hello": 1}"#), &unknown_field);
    let name = expect![[r#"
        400 Bad Request
        bad-name: `A%`: `A%` is not a host name: use a-z, 0-9 and `-` inside, for example `a`
          "#]];
    check(&bed, ("POST", "/v1/vms/A%25/start", "", ""), &name);
    let query = expect![[r#"
        400 Bad Request
        bad-query: Failed to deserialize query string: wait_ms: invalid digit found in string
          docs/openapi.json describes the parameters"#]];
    check(&bed, ("GET", "/v1/events?wait_ms=soon", "", ""), &query);
    let revision = expect![[r#"
        400 Bad Request
        bad-if-match: `If-Match` is not a revision
          send the ETag of the plan or of the world, like "17""#]];
    check(&bed, ("PUT", "/v1/world", "If-Match: *\r\n", EMPTY_WORLD), &revision);
    let upgrade = expect![[r#"
        426 Upgrade Required
        upgrade-required: this route turns the connection into a stream
          send `Connection: upgrade` and `Upgrade: weft-exec`"#]];
    check(&bed, ("POST", "/v1/vms/web/exec", "", r#"{"argv": ["true"]}"#), &upgrade);
    let frame = expect![[r#"
        422 Unprocessable Entity
        bad-frame: `frame` is not hexadecimal
          write two digits for each byte"#]];
    check(&bed, ("POST", "/v1/explain", "", r#"{"port": "web-0", "frame": "xyz"}"#), &frame);
}

const EMPTY_WORLD: &str = r#"{"owner": "/lab.toml", "world": {"networks": {}, "images": {}, "vms": {}}}"#;

#[test]
fn what_is_not_there_is_said() {
    let bed = Bed::new();
    let vm = expect![[r#"
        404 Not Found
        no-such-vm: there is no VM `web`
          `weft vm ls` lists them"#]];
    check(&bed, ("POST", "/v1/vms/web/start", "", ""), &vm);
    check(&bed, ("POST", "/v1/vms/web/stop?force=true", "", ""), &vm);
    check(&bed, ("DELETE", "/v1/vms/web", "", ""), &vm);
    check(&bed, ("GET", "/v1/vms/web/log?lines=3", "", ""), &vm);
    check(&bed, ("POST", "/v1/vms/web/console", "Upgrade: weft-console\r\n", ""), &vm);
    let operation = expect![[r#"
        404 Not Found
        no-such-operation: there is no operation 7
          operations that ended long ago are forgotten; GET /v1/operations lists the others"#]];
    check(&bed, ("GET", "/v1/operations/7?wait_ms=1000", "", ""), &operation);
    bed.with(async |client| {
        let web = "web".parse().unwrap();
        for refused in [
            client.console(&web).await.map(drop),
            client.log(&web, LogQuery::default()).await.map(drop),
            client.remove_image("no/such image?").await,
        ] {
            let Err(ClientError::Refused(refused)) = refused else { panic!("{refused:?}") };
            assert_eq!(refused.0.status, 404, "{refused:?}");
            assert!(refused.0.code.starts_with("no-such-"), "{refused:?}");
        }
    });
}

#[test]
fn a_body_has_its_bounds() {
    let bed = Bed::new();
    let said = bed.ask("PUT", "/v1/world", "", &format!("\"{}\"", "x".repeat(9 << 20)));
    assert!(said.0.starts_with("413") && said.1.contains("body-too-large"), "{said:?}");
    bed.with(async |client| client.world().await.unwrap());
}

#[test]
fn nonsense_instead_of_http_harms_nobody() {
    let bed = Bed::new();
    for nonsense in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET /v1 HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let answer = bed.raw(nonsense);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?}: {answer}");
    }
    bed.with(async |client| client.world().await.unwrap());
}

#[test]
fn nothing_to_do_is_an_operation_too_and_its_events_can_be_followed() {
    let bed = Bed::new();
    bed.with(async |client| {
        let request = ApplyRequest { owner: "/lab.toml".to_owned(), world: World::default(), if_revision: None };
        let plan = client.plan(&request).await.unwrap();
        assert_eq!(plan.steps, []);
        let operation = client.apply(&request).await.unwrap();
        assert_eq!(operation.title, "down /lab.toml");
        let ended = client.operation(operation.id, Duration::from_secs(10)).await.unwrap();
        assert_eq!((ended.state, ended.problems), (weft_model::view::OperationState::Done, vec![]));
        let events = client.events(0, Some(operation.id), Duration::from_secs(10)).await.unwrap();
        assert!(events.iter().any(|event| event.kind == "operation-started"), "{events:?}");
        let none = client.events(u64::MAX, None, Duration::from_millis(50)).await.unwrap();
        assert_eq!(none, []);
    });
    let (status, body) = bed.ask("PUT", "/v1/world", "If-Match: \"0\"\r\n", EMPTY_WORLD);
    assert!(status.starts_with("202") && body.contains("down /lab.toml"), "{status} {body}");
}

#[test]
fn a_stream_of_events_begins_with_the_past() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let bed = Bed::new();
    bed.ask("PUT", "/v1/world", "", EMPTY_WORLD);
    let mut stream = std::os::unix::net::UnixStream::connect(&bed.socket).unwrap();
    stream.write_all(b"GET /v1/events/stream HTTP/1.1\r\nHost: weft\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().ends_with("200 OK"));
    let event = lines.find(|line| line.starts_with('{')).unwrap();
    assert!(event.contains("\"id\":1,"), "{event}");
}

#[test]
fn an_empty_daemon_goes_when_its_last_client_has_left() {
    let bed = Bed::new();
    bed.with(async |_client| tokio::time::sleep(Duration::from_secs(1)).await);
    let lingered = bed.lingers();
    assert!(lingered < Duration::from_secs(1), "{lingered:?}");
}

#[test]
fn whoever_is_connected_keeps_the_daemon() {
    let bed = Bed::new();
    let idle = std::os::unix::net::UnixStream::connect(&bed.socket).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    bed.with(async |client| client.world().await.unwrap());
    drop(idle);
    bed.lingers();
}
