//! Into the machines: exec, console, logs; and many of them at once.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Home, eventually};

#[test]
fn exec_passes_everything_through() {
    let home = Home::new("exec");
    home.write("weft.toml", "[vm.a]\n");
    home.weft(&["up"]).ok();
    let both = home.exec("a", &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((both.code, both.out.as_str(), both.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(home.exec("a", &["sh", "-c", "kill -TERM $$"]).code, 128 + 15);
    assert_eq!(home.exec("a", &["no-such-command"]).code, 127);
    // Bytes, many of them, both ways.
    let input: Vec<u8> = (0..2_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = home.weft_with_input(&["exec", "-i", "a", "--", "cat"], &input);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == input, "{} bytes came back of {}", output.stdout.len(), input.len());
    // Nothing on standard input ends at once.
    assert_eq!(home.exec("a", &["cat"]).ok(), "");
    // An exec whose client dies takes its process with it.
    let mut lost = home.spawn(&["exec", "a", "--", "sleep", "4711"]);
    let sleeping = || home.exec("a", &["sh", "-c", "ps | grep -c '[s]leep 4711'"]).out.trim() == "1";
    eventually("it sleeps", Duration::from_secs(10), sleeping);
    lost.kill().unwrap();
    lost.wait().unwrap();
    eventually("it is gone", Duration::from_secs(10), || !sleeping());
    let unknown = home.exec("nobody", &["true"]);
    assert!(unknown.code != 0 && unknown.err.contains("nobody"), "{}", unknown.err);
    assert!(home.weft(&["logs", "a"]).ok().contains("a micro guest of Weft"), "its first words are in the log");
    home.weft(&["down"]).ok();
    home.assert_gone();
}

#[test]
fn the_console_is_left_with_its_key() {
    let home = Home::new("console");
    home.write("weft.toml", "[vm.a]\n");
    home.weft(&["up"]).ok();
    let mut command = home.command(home.dir().join("weft"));
    let mut console = command
        .args(["console", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = console.stdin.take().unwrap();
    stdin.write_all(b"\recho con''sole-works\r").unwrap();
    let mut stdout = console.stdout.take().unwrap();
    let (mut seen, mut buffer) = (String::new(), [0; 1024]);
    while !seen.contains("console-works") {
        let n = stdout.read(&mut buffer).unwrap();
        assert!(n > 0, "the console ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let second = home.weft(&["console", "a"]);
    assert!(second.code != 0 && second.err.contains("somebody else is at the console of `a`"), "{}", second.err);
    stdin.write_all(b"\x1d").unwrap();
    assert!(console.wait().unwrap().success());
    home.weft(&["down"]).ok();
    home.assert_gone();
}

/// Ten machines on five networks, every pair tried: who shares a network talks, by address, name and HTTP; nobody else.
#[test]
fn ten_machines_on_five_networks() {
    // Machine i is on networks i/2 and, if odd, (i/2 + 1) mod 5.
    let networks_of = |i: usize| if i % 2 == 1 { vec![i / 2, (i / 2 + 1) % 5] } else { vec![i / 2] };
    let mut file = String::new();
    for n in 0..5 {
        let mode = if n % 2 == 0 { "nat" } else { "internal" };
        file += &format!("[network.n{n}]\nmode = '{mode}'\nsubnet = '10.7{n}.0.0/24'\n");
    }
    for i in 0..10 {
        let nics: Vec<_> =
            networks_of(i).iter().map(|n| format!("{{ network = 'n{n}', ip = '10.7{n}.0.{}' }}", 10 + i)).collect();
        file += &format!("[vm.m{i}]\nmemory = '128MiB'\nnics = [{}]\n", nics.join(", "));
    }
    let home = Home::rootless("ten");
    home.write("weft.toml", &file);
    home.weft(&["up"]).ok();
    for i in 0..10 {
        home.exec(
            &format!("m{i}"),
            &["sh", "-c", &format!("mkdir /www; echo i am m{i} >/www/index.html; httpd -h /www")],
        )
        .ok();
    }
    // One script a machine tries everybody; a line a peer and address: NAME ADDRESS PING NAME-RESOLVES HTTP.
    let try_all = &|i: usize| {
        let mut script = String::new();
        let mut expected = String::new();
        for j in (0..10).filter(|j| *j != i) {
            for n in networks_of(j) {
                let (ip, shared) = (format!("10.7{n}.0.{}", 10 + j), networks_of(i).contains(&n));
                script += &format!(
                    "p=no; ping -c 1 -W {wait} {ip} >/dev/null 2>&1 && p=yes; \
                     d=no; nslookup m{j}.n{n}.weft 2>/dev/null | grep -q {ip} && d=yes; \
                     h=no; [ \"$(wget -q -T {wait} -O - http://{ip}/ 2>/dev/null)\" = 'i am m{j}' ] && h=yes; \
                     echo m{j} {ip} $p $d $h\n",
                    wait = if shared { 5 } else { 1 }
                );
                let word = if shared { "yes" } else { "no" };
                expected += &format!("m{j} {ip} {word} {word} {word}\n");
            }
        }
        assert_eq!(home.exec(&format!("m{i}"), &["sh", "-c", &script]).ok(), expected, "seen from m{i}");
    };
    std::thread::scope(|scope| {
        for i in 0..10 {
            scope.spawn(move || try_all(i));
        }
    });
    home.weft(&["down"]).ok();
    home.assert_gone();
}
