//! What the pure parts may not name: threads, files, sockets, clocks, unseeded randomness, hash-map order.
//!
//! A dependency tree cannot show a use of `std`, so this one reads the source. It is not a parser: it drops
//! comments, literals and test modules, spells `use` groups out, and looks at the paths that remain.

use super::Report;
use super::tidy::read;
use crate::sh;
use std::path::Path;

/// Folders that must stay pure.
const PURE: &[&str] = &["crates/membership/src", "crates/raftnode/src/core"];

/// Paths that no pure code begins with.
const PREFIXES: &[&[&str]] = &[
    &["std", "thread"],
    &["std", "fs"],
    &["std", "net"],
    &["std", "env"],
    &["std", "os"],
    &["std", "process"],
    &["tokio"],
    &["memmap2"],
    &["parking_lot"],
];

/// Pieces that no path in pure code holds.
const PIECES: &[&[&str]] = &[
    &["Instant", "now"],
    &["SystemTime"],
    &["elapsed"],
    &["mpsc"],
    &["Mutex"],
    &["RwLock"],
    &["Condvar"],
    &["HashMap"],
    &["HashSet"],
    &["RandomState"],
    &["Rng", "new"],
    &["Rng", "default"],
    &["thread_rng"],
    &["TcpStream"],
    &["TcpListener"],
    &["File", "open"],
    &["File", "create"],
];

pub(super) fn purity(root: &Path) -> Report {
    let mut report = Report::default();
    let Some(files) = report.check(sh::tracked(root)) else { return report };
    let mut seen = [0_usize; PURE.len()];
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "rs")) {
        let Some(folder) = PURE.iter().position(|folder| file.starts_with(folder)) else {
            continue;
        };
        seen[folder] += 1;
        // A planted bug asks the environment whether it is on, and is compiled only under a cfg of its own.
        let test_only = file.components().any(|part| {
            matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "planted.rs"))
        });
        if test_only {
            continue;
        }
        if let Some(source) = report.check(read(root, file)) {
            report.faults.extend(impurities(&source).into_iter().map(|path| {
                format!(
                    "{}: pure code must not name `{path}`: take it as an argument instead",
                    file.display()
                )
            }));
        }
    }
    for (folder, count) in PURE.iter().zip(seen) {
        if count == 0 {
            report.fault(format!("{folder}: no source found; did it move?"));
        }
    }
    report
}

/// The forbidden paths that `source` names outside its tests.
fn impurities(source: &str) -> Vec<String> {
    let tokens = tokens(&without_tests(&strip(source)));
    let mut found: Vec<String> =
        paths(&tokens).into_iter().filter(|path| forbidden(path)).map(|p| p.join("::")).collect();
    found.dedup();
    found
}

fn forbidden(path: &[String]) -> bool {
    let starts = |prefix: &&[&str]| {
        path.len() >= prefix.len() && path.iter().zip(*prefix).all(|(a, b)| a == b)
    };
    let holds =
        |piece: &&[&str]| path.windows(piece.len()).any(|window| window.iter().eq(piece.iter()));
    // `fastrand::u64(..)` draws from a global generator that nobody seeded.
    let global =
        path.len() == 2 && path[0] == "fastrand" && path[1].starts_with(char::is_lowercase);
    PREFIXES.iter().any(starts) || PIECES.iter().any(holds) || global
}

/// `source` with comments and the insides of literals blanked out.
fn strip(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 2; // r, hashes, quote
            rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
        } else if c == '"' {
            quoted(rest)
        } else if c == '\'' {
            char_literal(rest)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[skip..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else if let Some(c) = text[at..].chars().next() {
            at += c.len_utf8();
        } else {
            return at;
        }
    }
}

/// The number of hashes if `text` begins with a raw string.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.chars().take_while(|c| *c == '#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal that `text` begins with, or of the quote alone if it is a lifetime.
fn char_literal(text: &str) -> usize {
    let inner: Vec<(usize, char)> = text.char_indices().skip(1).take(12).collect();
    match inner.as_slice() {
        [(_, '\\'), _, rest @ ..] => {
            rest.iter().find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
        }
        [_, (at, '\''), ..] => at + 1,
        _ => 1,
    }
}

/// `source` without what follows a `#[cfg(test)]`: one item, to its closing brace or semicolon.
fn without_tests(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let mut depth = 0_usize;
        let end = rest[at..].char_indices().find(|(_, c)| match c {
            '{' => {
                depth += 1;
                false
            }
            '}' => {
                depth = depth.saturating_sub(1);
                depth == 0
            }
            ';' => depth == 0,
            _ => false,
        });
        rest = end.map_or("", |(length, c)| &rest[at + length + c.len_utf8()..]);
    }
    out.push_str(rest);
    out
}

/// Identifiers, `::` and single punctuation marks.
fn tokens(source: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            out.push(std::mem::take(&mut word));
        }
        if c == ':' && chars.next_if_eq(&':').is_some() {
            out.push("::".to_owned());
        } else if !c.is_whitespace() {
            out.push(c.to_string());
        }
    }
    out.extend((!word.is_empty()).then_some(word));
    out
}

/// Every path in `tokens`; `std::{fs, thread::spawn}` gives `std::fs` and `std::thread::spawn`.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let is_word = |token: &String| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let mut found = Vec::new();
    let mut stack: Vec<Vec<String>> = Vec::new(); // prefixes of the groups we are in; empty for plain braces
    let mut current: Vec<String> = Vec::new();
    let mut joined = false; // the last token was `::`
    for token in tokens {
        let prefix = || stack.last().cloned().unwrap_or_default();
        if is_word(token) {
            if !joined {
                found.push(std::mem::replace(&mut current, prefix()));
            }
            current.push(token.clone());
            joined = false;
        } else if token == "::" {
            joined = true;
        } else {
            if token == "{" {
                stack.push(if joined { current.clone() } else { Vec::new() });
            } else if token == "}" {
                stack.pop();
            }
            found.push(std::mem::take(&mut current));
            joined = false;
        }
    }
    found.push(current);
    found.retain(|path| !path.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::super::planted::Planted;
    use super::*;

    #[test]
    fn each_way_to_name_the_outside_is_seen() {
        for (source, path) in [
            ("use std::thread;", "std::thread"),
            ("use std::{fmt, fs::File, sync::Arc};", "std::fs::File"),
            ("use std::{collections::{BTreeMap, HashMap}};", "std::collections::HashMap"),
            ("fn f() { let t = std::time::Instant::now(); }", "std::time::Instant::now"),
            ("fn f(t: Instant) { t.elapsed(); }", "elapsed"),
            ("fn f() { let n = fastrand::u64(..); }", "fastrand::u64"),
            ("fn f() { let r = fastrand::Rng::new(); }", "fastrand::Rng::new"),
            ("use std::net::TcpStream as Wire;", "std::net::TcpStream"),
            ("const C: char = '\"'; use std::env;", "std::env"),
        ] {
            assert_eq!(impurities(source), [path], "{source}");
        }
    }

    #[test]
    fn words_about_the_outside_are_not_the_outside() {
        for source in [
            "/// Starts no std::thread::spawn.\nfn f() {}",
            "/* std::fs /* nested */ std::net */ fn f() {}",
            r##"const S: &str = r#"std::fs"#; const T: &str = "std::net \" std::env";"##,
            "fn f<'a>(thread: &'a str) -> &'a str { thread }",
            "fn f(now: Instant) -> Instant { now }",
            "fn f(r: &mut fastrand::Rng) -> u64 { fastrand::Rng::with_seed(1).u64(..) }",
            "fn g() {}\n#[cfg(test)]\nmod tests { use std::thread; fn f() { std::fs::read(); } }\nfn h() {}",
        ] {
            assert_eq!(impurities(source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn code_after_a_test_module_is_read_again() {
        let source = "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { std::fs::read(\"x\"); }";
        assert_eq!(impurities(source), ["std::fs::read"]);
    }

    #[test]
    fn a_planted_clock_fails_the_check() {
        let planted = Planted::empty("purity")
            .with("crates/membership/src/lib.rs", "fn f() { SystemTime::now(); }")
            .with("crates/raftnode/src/core/mod.rs", "fn f() {}");
        let faults = purity(planted.root()).faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("SystemTime::now"));
    }

    #[test]
    fn a_folder_that_moved_fails_the_check() {
        let planted = Planted::empty("purity-moved");
        assert_eq!(purity(planted.root()).faults.len(), PURE.len());
    }
}
