//! What a line of a scenario says.

use oarlock_raftnode::membership::record::ConfChangeTransition;
use oarlock_raftnode::membership::{Change, ChangeEntry, UncommittedTail};

use super::net::Link;
use super::world::member;

/// One command. Ids are small numbers; `all` stands for every node that runs.
pub(super) enum Command {
    Config(Vec<(String, String)>),
    Nodes(Vec<u64>),
    Join { id: u64, via: u64 },
    Auto(bool),
    Detail(bool),
    Tick { who: Who, ticks: u32 },
    Run(usize),
    Settle,
    Work(Who),
    Elect(u64),
    Campaign(u64),
    Transfer { from: u64, to: u64 },
    Propose { on: u64, words: Vec<String> },
    Publish { on: u64, name: String },
    Change { on: u64, change: ChangeEntry },
    Read(u64),
    Deliver { links: Links, count: usize, label: Option<String> },
    Drop { links: Links, count: usize, label: Option<String> },
    Duplicate { link: Link, label: Option<String> },
    Delay { link: Link, label: Option<String> },
    Resume,
    Overtake { link: Link, place: usize },
    Cut(Links),
    Heal(Option<Links>),
    Unreachable { on: u64, peer: u64 },
    Persist { who: Who, count: usize },
    Sync { who: Who, count: usize },
    Report { who: Who, together: bool },
    Apply { who: Who, count: usize },
    Snapshot(u64),
    Compact { on: u64, index: Option<u64> },
    Stall { on: u64, stalled: bool },
    Fail { on: u64, what: Fault },
    HandOver(u64),
    Stop(u64),
    Crash { who: Who, kept: usize },
    Restart(Who),
    Wipe(u64),
    LoseSnapshots(u64),
    Rescue { id: u64, tail: UncommittedTail },
    Log(Who),
    Disk(Who),
    State(Who),
    Status(Who),
    Progress(u64),
    Net,
    Held(Who),
}

/// What a disk fails to do.
pub(super) enum Fault {
    Write,
    Sync,
}

#[derive(Clone, Copy)]
pub(super) enum Who {
    One(u64),
    All,
}

#[derive(Clone, Copy)]
pub(super) enum Links {
    One(Link),
    /// All from and to a node.
    Of(u64),
    All,
}

struct Words<'a> {
    line: &'a str,
    rest: std::str::SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        self.rest.next().ok_or_else(|| format!("`{}` says too little", self.line))
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.next()?;
        word.parse().map_err(|_| format!("`{word}` in `{}` is no number", self.line))
    }

    fn number_or<T: std::str::FromStr>(&mut self, default: T) -> Result<T, String> {
        let mut ahead = self.rest.clone();
        if ahead.next().is_some() { self.number() } else { Ok(default) }
    }

    fn flag(&mut self) -> Result<bool, String> {
        match self.next()? {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("`{other}` in `{}` is neither on nor off", self.line)),
        }
    }

    fn who(&mut self) -> Result<Who, String> {
        let mut ahead = self.rest.clone();
        match ahead.next() {
            None | Some("all") => {
                self.rest = ahead;
                Ok(Who::All)
            }
            Some(_) => Ok(Who::One(self.number()?)),
        }
    }

    fn links(&mut self) -> Result<Links, String> {
        let word = self.next()?;
        let number = |word: &str| {
            word.parse().map_err(|_| format!("`{word}` in `{}` is no number", self.line))
        };
        Ok(match word.split_once("->") {
            Some((from, to)) => Links::One((number(from)?, number(to)?)),
            None if word == "all" => Links::All,
            None => Links::Of(number(word)?),
        })
    }

    fn link(&mut self) -> Result<Link, String> {
        match self.links()? {
            Links::One(link) => Ok(link),
            _ => Err(format!("`{}` needs one direction, as 1->2", self.line)),
        }
    }

    /// How many, or which: `deliver 1->2 3`, `deliver 1->2 append`.
    fn count_or_label(&mut self) -> Result<(usize, Option<String>), String> {
        match self.rest.next() {
            None => Ok((usize::MAX, None)),
            Some(word) => match word.parse() {
                Ok(count) => Ok((count, None)),
                Err(_) => Ok((1, Some(word.to_owned()))),
            },
        }
    }

    fn all(&mut self) -> Vec<String> {
        self.rest.by_ref().map(str::to_owned).collect()
    }
}

impl Command {
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let mut words = Words { line, rest: line.split_whitespace() };
        let verb = words.next()?;
        let command = match verb {
            "config" => {
                let all = words.all();
                let pairs = all.chunks_exact(2);
                Self::Config(pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            }
            "nodes" => {
                let ids = words.all().iter().map(|word| word.parse()).collect::<Result<_, _>>();
                Self::Nodes(ids.map_err(|_| format!("`{line}` needs numbers"))?)
            }
            "join" => Self::Join { id: words.number()?, via: words.number()? },
            "auto" => Self::Auto(words.flag()?),
            "detail" => Self::Detail(words.flag()?),
            "tick" => Self::Tick { who: words.who()?, ticks: words.number_or(1)? },
            "run" => Self::Run(words.number_or(1)?),
            "settle" => Self::Settle,
            "work" => Self::Work(words.who()?),
            "elect" => Self::Elect(words.number()?),
            "campaign" => Self::Campaign(words.number()?),
            "transfer" => Self::Transfer { from: words.number()?, to: words.number()? },
            "propose" => Self::Propose { on: words.number()?, words: words.all() },
            "publish" => Self::Publish { on: words.number()?, name: words.next()?.to_owned() },
            "change" | "joint" => {
                Self::Change { on: words.number()?, change: change(verb, &mut words)? }
            }
            "leave-joint" => {
                Self::Change { on: words.number()?, change: ChangeEntry::leave_joint() }
            }
            "read" => Self::Read(words.number()?),
            "deliver" | "drop" => {
                let links = words.links()?;
                let (count, label) = words.count_or_label()?;
                if verb == "drop" {
                    Self::Drop { links, count, label }
                } else {
                    Self::Deliver { links, count, label }
                }
            }
            "duplicate" => {
                let link = words.link()?;
                Self::Duplicate { link, label: words.count_or_label()?.1 }
            }
            "delay" => {
                let link = words.link()?;
                Self::Delay { link, label: words.count_or_label()?.1 }
            }
            "resume" => Self::Resume,
            "overtake" => Self::Overtake { link: words.link()?, place: words.number()? },
            "cut" => Self::Cut(words.links()?),
            "heal" => Self::Heal(if words.rest.clone().next().is_some() {
                Some(words.links()?)
            } else {
                None
            }),
            "unreachable" => Self::Unreachable { on: words.number()?, peer: words.number()? },
            "persist" => Self::Persist { who: words.who()?, count: words.number_or(usize::MAX)? },
            "sync" => Self::Sync { who: words.who()?, count: words.number_or(usize::MAX)? },
            "report" => {
                let who = words.who()?;
                Self::Report { who, together: words.rest.next() == Some("together") }
            }
            "apply" => Self::Apply { who: words.who()?, count: words.number_or(usize::MAX)? },
            "snapshot" => Self::Snapshot(words.number()?),
            "compact" => {
                let on = words.number()?;
                let index = words.rest.next().map(str::parse).transpose();
                let index = index.map_err(|_| format!("`{line}` compacts up to what?"))?;
                Self::Compact { on, index }
            }
            "stall" => Self::Stall { on: words.number()?, stalled: words.flag()? },
            "fail" => {
                let on = words.number()?;
                let what = match words.next()? {
                    "write" => Fault::Write,
                    "sync" => Fault::Sync,
                    other => return Err(format!("`{other}`: a write or a sync?")),
                };
                Self::Fail { on, what }
            }
            "hand-over" => Self::HandOver(words.number()?),
            "stop" => Self::Stop(words.number()?),
            "crash" => {
                let who = words.who()?;
                let kept = if words.rest.next() == Some("keep") { words.number()? } else { 0 };
                Self::Crash { who, kept }
            }
            "restart" => Self::Restart(words.who()?),
            "wipe" => Self::Wipe(words.number()?),
            "lose-snapshots" => Self::LoseSnapshots(words.number()?),
            "rescue" => Self::Rescue {
                id: words.number()?,
                tail: match words.next()? {
                    "keep" => UncommittedTail::Keep,
                    "discard" => UncommittedTail::Discard,
                    other => return Err(format!("`{other}`: keep or discard the tail?")),
                },
            },
            "log" => Self::Log(words.who()?),
            "disk" => Self::Disk(words.who()?),
            "state" => Self::State(words.who()?),
            "status" => Self::Status(words.who()?),
            "progress" => Self::Progress(words.number()?),
            "net" => Self::Net,
            "held" => Self::Held(words.who()?),
            other => return Err(format!("`{other}` is no command")),
        };
        match words.rest.next() {
            None => Ok(command),
            Some(word) => Err(format!("`{word}` in `{line}` is too much")),
        }
    }
}

/// `add-voter 4`, `promote 4`, ...; for a joint change also how it is left, and several of them.
fn change(verb: &str, words: &mut Words<'_>) -> Result<ChangeEntry, String> {
    let transition = match (verb, words.rest.clone().next()) {
        ("joint", Some("auto")) => Some(ConfChangeTransition::Auto),
        ("joint", Some("implicit")) => Some(ConfChangeTransition::Implicit),
        ("joint", Some("explicit")) => Some(ConfChangeTransition::Explicit),
        ("joint", _) => return Err("a joint change is auto, implicit or explicit".into()),
        _ => None,
    };
    if transition.is_some() {
        words.next()?;
    }
    let mut changes = Vec::new();
    while let Some(kind) = words.rest.next() {
        let id = words.number()?;
        changes.push(match kind {
            "add-voter" => Change::AddVoter(member(id)),
            "add-learner" => Change::AddLearner(member(id)),
            "promote" => Change::Promote(id),
            "remove" => Change::Remove(id),
            other => return Err(format!("`{other}` is no change")),
        });
    }
    match transition {
        Some(transition) => Ok(ChangeEntry::joint(changes, transition)),
        None => changes.pop().map(ChangeEntry::new).ok_or_else(|| "a change of what?".into()),
    }
}
