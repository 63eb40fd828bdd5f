//! Carries out commands, and says what came of them.

use oarlock_raftnode::bootstrap::Boot;
use oarlock_raftnode::{Config, SnapshotStore};

use super::command::{Command, Fault, Links, Who};
use super::net::Link;
use super::node::Node;
use super::world::World;

/// A conversation between nodes, one command at a time.
pub struct Script {
    world: World,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script").field("nodes", &self.world.nodes.len()).finish_non_exhaustive()
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

impl Script {
    /// No nodes yet.
    #[must_use]
    pub fn new() -> Self {
        Self { world: World::new(1) }
    }

    /// Carries out one command and returns what it prints, a line each.
    ///
    /// # Errors
    /// The command makes no sense, or an invariant does not hold after it.
    pub fn run(&mut self, line: &str) -> Result<String, String> {
        let command = Command::parse(line)?;
        self.carry_out(command)?;
        let world = &mut self.world;
        if world.auto {
            world.work();
        }
        let mut output = String::new();
        for line in world.trace.lines.drain(..) {
            output += &line;
            output.push('\n');
        }
        let violations = world.witness.take_violations();
        if violations.is_empty() {
            return Ok(output);
        }
        Err(format!("after `{line}`: {}\n{output}", violations.join("; ")))
    }

    fn carry_out(&mut self, command: Command) -> Result<(), String> {
        let world = &mut self.world;
        match command {
            Command::Config(pairs) => {
                for (key, value) in pairs {
                    world.config = configured(world.config.clone(), &key, &value)?;
                }
            }
            Command::Nodes(ids) => world.found(&ids)?,
            Command::Join { id, via } => world.join(id, via)?,
            Command::Auto(on) => world.auto = on,
            Command::Detail(on) => world.trace.detail = on,
            Command::Tick { who, ticks } => {
                for id in self.who(who) {
                    for _ in 0..ticks {
                        self.world.step(id, Node::tick);
                    }
                }
            }
            Command::Run(rounds) => world.run(rounds),
            Command::Settle => world.settle(),
            Command::Work(Who::All) => world.work(),
            Command::Work(Who::One(id)) => while world.work_on(id) {},
            Command::Elect(id) => {
                world.trace.mute_roles = true;
                let elected = world.elect(id);
                world.trace.mute_roles = false;
                elected?;
                let term = world.life(id).map_or(0, |life| life.core.vitals().term);
                world.trace.say(id, format!("leads term {term}"));
            }
            Command::Campaign(id) => {
                world.step(id, Node::campaign);
            }
            Command::Transfer { from, to } => {
                let begun = world.step(from, |node, around| node.transfer(to, around));
                if let Some(Err(error)) = begun {
                    world.trace.say(from, format!("does not transfer: {error}"));
                }
            }
            Command::Propose { on, words } => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                world.step(on, |node, around| node.propose(&words, around));
            }
            Command::Publish { on, name } => {
                world.step(on, |node, around| node.publish(&name, around));
            }
            Command::Change { on, change } => {
                world.step(on, |node, around| node.change(change, around));
            }
            Command::Read(id) => {
                world.step(id, |node, around| node.read(around));
            }
            Command::Deliver { links, count, label } => {
                for link in self.links(links) {
                    let count = count.min(self.world.net.len(link));
                    for _ in 0..count {
                        if !self.world.deliver(link, label.as_deref()) {
                            return Err(format!("nothing like it on {}->{}", link.0, link.1));
                        }
                    }
                }
            }
            Command::Drop { links, count, label } => {
                for link in self.links(links) {
                    for _ in 0..count.min(self.world.net.len(link)) {
                        self.world.net.lose_one(link, label.as_deref());
                    }
                }
                self.world.tell_senders();
            }
            Command::Duplicate { link, label } => {
                world.net.duplicate(link, label.as_deref()).ok_or("nothing to duplicate")?;
            }
            Command::Delay { link, label } => {
                if !world.net.delay(link, label.as_deref()) {
                    return Err(format!("nothing to delay on {}->{}", link.0, link.1));
                }
            }
            Command::Resume => world.net.resume(),
            Command::Overtake { link, place } => {
                world.net.overtake(link, place).ok_or("nothing to overtake with")?;
            }
            Command::Cut(links) => {
                for link in self.all_links(links) {
                    self.world.net.cut(link);
                }
                self.world.tell_senders();
            }
            Command::Heal(None) => world.net.heal(None),
            Command::Heal(Some(links)) => {
                for link in self.all_links(links) {
                    self.world.net.heal(Some(link));
                }
            }
            Command::Unreachable { on, peer } => {
                world.act(on, |core| core.handle_unreachable(peer));
            }
            Command::Persist { who, count } => {
                for id in self.who(who) {
                    self.world.step(id, |node, around| {
                        node.sync(count, around);
                        node.report(false, around);
                    });
                }
            }
            Command::Sync { who, count } => {
                for id in self.who(who) {
                    self.world.step(id, |node, around| node.sync(count, around));
                }
            }
            Command::Report { who, together } => {
                for id in self.who(who) {
                    self.world.step(id, |node, around| node.report(together, around));
                }
            }
            Command::Apply { who, count } => {
                for id in self.who(who) {
                    self.world.apply(id, count);
                }
            }
            Command::Snapshot(id) => {
                world.step(id, |node, around| node.snapshot(around)).transpose()?;
            }
            Command::Compact { on, index } => {
                if let Some(index) = world.compact(on, index).transpose()? {
                    world.trace.say(on, format!("log begins after {index}"));
                }
            }
            Command::Stall { on, stalled } => {
                world.act(on, |core| core.handle_disk_stall(stalled));
            }
            Command::Fail { on, what } => {
                if let Some(node) = world.nodes.get(&on) {
                    match what {
                        Fault::Write => node.store.fail_next_append(),
                        Fault::Sync => node.store.fail_next_sync(),
                    }
                }
            }
            Command::HandOver(id) => match world.step(id, Node::hand_over).flatten() {
                Some(to) => world.trace.say(id, format!("hands over to {to}")),
                None => world.trace.say(id, "has nobody to hand over to"),
            },
            Command::Stop(id) => {
                world.step(id, Node::stop);
            }
            Command::Crash { who, kept } => {
                for id in self.who(who) {
                    self.world.crash(id, kept);
                }
            }
            Command::Restart(who) => {
                let ids = match who {
                    Who::One(id) => vec![id],
                    Who::All => world.nodes.keys().copied().collect(),
                };
                for id in ids {
                    if self.world.life(id).is_none() {
                        self.world.start(id, &Boot::Restart);
                    }
                }
            }
            Command::Wipe(id) => {
                if let Some(node) = world.nodes.get_mut(&id) {
                    node.wipe();
                }
            }
            Command::LoseSnapshots(id) => {
                if let Some(node) = world.nodes.get(&id) {
                    node.snapshots.purge(u64::MAX).map_err(|error| error.to_string())?;
                }
            }
            Command::Rescue { id, tail } => world.rescue(id, tail),
            Command::Log(who) => self.show(who, World::show_log),
            Command::Disk(who) => self.show(who, World::show_disk),
            Command::State(who) => self.show(who, World::show_state),
            Command::Status(who) => self.show(who, World::show_status),
            Command::Held(who) => self.show(who, World::show_held),
            Command::Progress(id) => world.show_progress(id),
            Command::Net => world.show_net(),
        }
        Ok(())
    }

    fn show(&mut self, who: Who, show: fn(&mut World, u64)) {
        let ids = match who {
            Who::One(id) => vec![id],
            Who::All => self.world.nodes.keys().copied().collect(),
        };
        for id in ids {
            show(&mut self.world, id);
        }
    }

    fn who(&self, who: Who) -> Vec<u64> {
        match who {
            Who::One(id) => vec![id],
            Who::All => self.world.running(),
        }
    }

    /// Those with something on them.
    fn links(&self, links: Links) -> Vec<Link> {
        let busy = self.world.net.busy();
        match links {
            Links::One(link) => vec![link],
            Links::Of(id) => busy.into_iter().filter(|link| link.0 == id || link.1 == id).collect(),
            Links::All => busy,
        }
    }

    /// Those that there could be.
    fn all_links(&self, links: Links) -> Vec<Link> {
        let ids: Vec<u64> = self.world.nodes.keys().copied().collect();
        let pairs = |id: u64| ids.iter().flat_map(move |other| [(id, *other), (*other, id)]);
        match links {
            Links::One(link) => vec![link],
            Links::Of(id) => pairs(id).filter(|link| link.0 != link.1).collect(),
            Links::All => ids.iter().flat_map(|id| pairs(*id)).collect(),
        }
    }
}

impl World {
    /// The senders of lost snapshots learn of it (O10).
    pub(super) fn tell_senders(&mut self) {
        while let Some((from, to)) = self.net.lost_snapshots.pop() {
            self.snapshot_sent(from, to, false);
        }
    }
}

fn configured(config: Config, key: &str, value: &str) -> Result<Config, String> {
    let number = || value.parse::<u32>().map_err(|_| format!("{key} {value} is no number"));
    let on = value == "on";
    Ok(match key {
        "pre-vote" => config.pre_vote(on),
        "check-quorum" => config.check_quorum(on),
        "election-ticks" => config.election_ticks(number()?),
        "message-bytes" => config.max_size_per_msg(u64::from(number()?)),
        "inflight" => config.max_inflight_msgs(number()? as usize),
        "inflight-bytes" => config.max_inflight_bytes(u64::from(number()?)),
        "uncommitted-bytes" => config.max_uncommitted_bytes(u64::from(number()?)),
        "catch-up" => config.snapshot_catchup_entries(u64::from(number()?)),
        "waiting" => config.max_waiting_proposals(number()? as usize),
        "request-bytes" => config.max_request_bytes(number()? as usize),
        other => return Err(format!("`{other}` cannot be configured")),
    })
}
