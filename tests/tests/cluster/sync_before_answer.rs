//! On one member the `fdatasync` that covers a write has ended before its answer begins: watched from outside, where
//! nothing can be pretended. `strace` stops a thread at the begin and at the end of each call, so the order of its lines
//! is the order in which things happened.

use crate::util::{SOON, has_applied};
use oarlock_tests::{
    Client, Failure, Flags, Process, eventually, require, scenario, server_binary,
};
use std::collections::HashMap;
use std::fs;
use std::process::Command;

/// A line of the trace: a call of one thread that begins, or ends.
#[derive(Debug, PartialEq)]
enum Event {
    Begin { call: String, fd: i32, bytes: Vec<u8> },
    End { call: String, fd: i32, bytes: Vec<u8>, ok: bool },
}

/// Every HTTP/2 frame of type DATA begins with nine bytes: length (3), type 0, flags, stream (4).
fn holds_data_frame(mut bytes: &[u8]) -> bool {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        if *kind == 0 {
            return true;
        }
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        bytes = rest.get(length..).unwrap_or_default();
    }
    false
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// The bytes of every `"\x..."` in a line, one after the other.
fn strings(text: &str) -> Vec<u8> {
    let quoted = text.split('"').skip(1).step_by(2);
    let pairs = quoted.flat_map(|hex| hex.split("\\x").skip(1));
    pairs.filter_map(|pair| u8::from_str_radix(pair.get(..2)?, 16).ok()).collect()
}

/// `strace -f -xx` prints `pid call(fd, ...) = n`, or in two lines `pid call(fd, ... <unfinished ...>` and
/// `pid <... call resumed>...) = n`. A call on one line gives its begin and its end.
fn parse(trace: &str) -> Vec<Event> {
    let mut open: HashMap<&str, (String, i32, Vec<u8>)> = HashMap::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let ok = || rest.rsplit_once(" = ").is_some_and(|(_, value)| !value.starts_with('-'));
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some((call, fd, mut bytes)) = open.remove(pid) {
                bytes.extend(strings(resumed));
                events.push(Event::End { call, fd, bytes, ok: ok() });
            }
            continue;
        }
        let Some((call, args)) = rest.split_once('(') else { continue };
        let digits: String = args.chars().take_while(char::is_ascii_digit).collect();
        let Ok(fd) = digits.parse() else { continue };
        let (call, bytes) = (call.to_owned(), strings(args));
        events.push(Event::Begin { call: call.clone(), fd, bytes: bytes.clone() });
        if rest.ends_with("<unfinished ...>") {
            open.insert(pid, (call, fd, bytes));
        } else {
            events.push(Event::End { call, fd, bytes, ok: ok() });
        }
    }
    events
}

/// Looks up, for one write: its request, its bytes in the log, the sync that covers them, the answer.
fn check(events: &[Event], marker: &[u8]) -> Result<(), String> {
    let find = |from: usize, what: &str, wanted: &dyn Fn(&Event) -> bool| {
        let found = events[from..].iter().position(wanted).map(|at| from + at);
        found.ok_or_else(|| format!("{}: no {what}", String::from_utf8_lossy(marker)))
    };
    let request = find(0, "request", &|event| {
        matches!(event, Event::End { call, bytes, .. }
            if matches!(call.as_str(), "read" | "recvfrom" | "readv" | "recvmsg") && holds(bytes, marker))
    })?;
    let Event::End { fd: client, .. } = &events[request] else {
        return Err("not an end".to_owned());
    };
    let written = find(request, "write to the log", &|event| {
        matches!(event, Event::End { call, fd, bytes, ok: true }
            if call.starts_with("pwrite") && fd != client && holds(bytes, marker))
    })?;
    let Event::End { fd: log, .. } = &events[written] else { return Err("not an end".to_owned()) };
    let begun = find(
        written,
        "begin of a sync",
        &|event| matches!(event, Event::Begin { call, fd, .. } if call == "fdatasync" && fd == log),
    )?;
    let synced = find(
        begun,
        "end of a sync",
        &|event| matches!(event, Event::End { call, fd, ok: true, .. } if call == "fdatasync" && fd == log),
    )?;
    let answer = find(request, "answer", &|event| {
        matches!(event, Event::Begin { call, fd, bytes }
            if matches!(call.as_str(), "write" | "writev" | "sendto" | "sendmsg") && fd == client
                && holds_data_frame(bytes))
    })?;
    if synced < answer {
        Ok(())
    } else {
        Err(format!(
            "{}: answered (line {answer}) before it was synced ({synced})",
            String::from_utf8_lossy(marker)
        ))
    }
}

#[test]
fn the_sync_that_covers_a_write_ends_before_its_answer_begins() {
    let Some(strace) = require("strace") else { return };
    scenario("strace", |scratch| {
        let flags = Flags::new(scratch.path(), "m1")?;
        let trace = scratch.path().join("trace");
        let server = flags.command(&server_binary()?);
        let mut command = Command::new(strace);
        // -D: the server is our child, the tracer its grandchild; so the kill on drop reaches the server itself.
        command.args(["-D", "-f", "-q", "-xx", "-s", "65536", "-o"]).arg(&trace).args([
            "-e",
            "trace=fdatasync,pwrite64,pwritev,pwritev2,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg",
        ]);
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg(server.get_program()).args(server.get_args());
        let mut process = Process::spawn("m1", &mut command, &scratch.path().join("m1.log"))?;
        let client = Client::new(&flags.client_url(), SOON)?;
        eventually("the first write", SOON, || client.put("ready", "x").ok())
            .map_err(|failure| process.failure(&failure.to_string()))?;
        let markers: Vec<String> =
            (0..25).map(|number| format!("marker-{number:03}-of-this-write")).collect();
        for marker in &markers {
            client.put("k", marker)?;
        }
        has_applied(&client, "k", &markers[24])?;
        process.terminate()?;
        process.wait(SOON)?;
        let events = parse(&fs::read_to_string(&trace)?);
        let wrong: Vec<String> =
            markers.iter().filter_map(|marker| check(&events, marker.as_bytes()).err()).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n"))) }
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A trace of one write, its answer before or after the end of the sync.
fn planted(answered_early: bool) -> String {
    let (key, data) = (hex(b"marker"), hex(&[0, 0, 1, 0, 1, 0, 0, 0, 1, 7]));
    let answer = format!("12 writev(9, [{{iov_base=\"{data}\", iov_len=10}}], 1) = 10\n");
    let (early, late) = if answered_early { (answer.as_str(), "") } else { ("", answer.as_str()) };
    format!(
        "12 recvfrom(9, \"{key}\", 8192, 0, NULL, NULL) = 6\n\
         11 pwrite64(5, \"{key}\", 6, 12288) = 6\n\
         11 fdatasync(5 <unfinished ...>\n\
         12 write(9, \"{settings}\", 9) = 9\n\
         {early}11 <... fdatasync resumed>) = 0\n{late}",
        settings = hex(&[0, 0, 0, 4, 1, 0, 0, 0, 0]),
    )
}

#[test]
fn an_answer_before_the_sync_would_be_seen() {
    check(&parse(&planted(false)), b"marker").expect("in order");
    let wrong = check(&parse(&planted(true)), b"marker").expect_err("too early");
    assert!(wrong.contains("before it was synced"), "{wrong}");
    let unsynced =
        planted(false).replace("fdatasync resumed>) = 0", "fdatasync resumed>) = -1 EIO");
    check(&parse(&unsynced), b"marker").expect_err("that sync failed");
}
