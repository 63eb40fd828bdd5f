//! Strangers on the peer port.

use crate::util::SOON;
use bytes::Bytes;
use oarlock_raftnode::transport::{
    FrameFault, Handler, Identity, Lane, PeerInfo, Refusal, TcpOptions, TcpTransport, Transport,
};
use oarlock_tests::{Cluster, Failure, Flags, Member, Outcome, eventually, scenario};
use parking_lot::Mutex;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Sends `bytes` and waits until the other side hangs up.
fn send(port: u16, bytes: &[u8]) -> Outcome {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    let _ = stream.write_all(bytes); // it may hang up in the middle
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[test]
fn garbage_is_refused_counted_and_hurts_nobody() {
    scenario("garbage", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        let port = cluster.members[0].flags.peer_port;
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let noise: Vec<u8> = (0..4096).map(|_| rng.u8(..)).collect();
        let inputs: [&[u8]; 5] = [
            b"GET /raft HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            &[0xff; 4096],
            &[0; 4096],
            &noise,
        ];
        let log_before = cluster.members[0].log_text().lines().count();
        for _ in 0..10 {
            for input in inputs {
                send(port, input).map_err(|failure| {
                    oarlock_tests::Failure::new(format!(
                        "seed {seed}: {:02x?}...: {failure}",
                        &input[..8]
                    ))
                })?;
            }
        }
        let faults = cluster.members[0].metric("oarlock_network_faults_total").unwrap_or(0.0);
        let refused = cluster.members[0].metric("oarlock_network_refused_total").unwrap_or(0.0);
        assert!(faults + refused >= 50.0, "{faults} faults and {refused} refusals of 50");
        let lines = cluster.members[0].log_text().lines().count() - log_before;
        assert!(lines < 20, "50 strangers, {lines} lines of log");
        assert!(cluster.members[0].process()?.ended().is_none());
        cluster.client(0)?.put("k", "v")?;
        Ok(())
    });
}

/// A length that asks for gigabytes gets none.
#[test]
fn an_oversize_frame_takes_no_memory() {
    scenario("oversize", |scratch| {
        let mut cluster = Cluster::start(scratch, 1)?;
        let port = cluster.members[0].flags.peer_port;
        let before = resident(cluster.members[0].process()?.id());
        let streams: Vec<TcpStream> = (0..32)
            .map(|_| {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.write_all(b"OARLOCK\x01")?;
                // A frame header (docs/protocol.md): checksum, length, kind Hello, length of the head, no payloads.
                stream.write_all(&[
                    0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0,
                    0, 0,
                ])?;
                Ok(stream)
            })
            .collect::<Result<_, std::io::Error>>()?;
        cluster.client(0)?.put("k", "v")?;
        let after = resident(cluster.members[0].process()?.id());
        drop(streams);
        if let (Some(before), Some(after)) = (before, after) {
            assert!(after < before + (64 << 20), "from {before} to {after} bytes");
        }
        Ok(())
    });
}

/// Resident bytes of a process, where the system says.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The owner of a transport that notes why it was refused.
#[derive(Default)]
struct Stranger {
    refusals: Mutex<Vec<Refusal>>,
}

impl Handler for Stranger {
    fn hello(&self, _peer: u64) -> Bytes {
        Bytes::new()
    }
    fn admit(&self, _peer: &PeerInfo) -> Result<(), Refusal> {
        Ok(())
    }
    fn receive(&self, _: u64, _: Lane, _: Bytes, _: Vec<Bytes>) -> Result<(), FrameFault> {
        Ok(())
    }
    fn receive_snapshot(
        &self,
        _from: u64,
        _head: Bytes,
        _len: u64,
        _content: &mut dyn Read,
    ) -> Result<(), Refusal> {
        Err(Refusal::Busy)
    }
    fn unreachable(&self, _peer: u64) {}
    fn refused(&self, _peer: u64, refusal: &Refusal) {
        self.refusals.lock().push(refusal.clone());
    }
    fn members(&self) -> Option<Bytes> {
        None
    }
}

/// Dials `peer_port` as a member of `cluster` that looks for member `looks_for`, until it is refused.
fn refusal(peer_port: u16, cluster: u64, looks_for: u64) -> Outcome<Refusal> {
    let stranger = Arc::new(Stranger::default());
    let transport =
        TcpTransport::bind(Identity::new(7, cluster), ("127.0.0.1", 0), TcpOptions::new())?;
    transport.start(stranger.clone())?;
    transport.add_peer(looks_for, &[format!("http://127.0.0.1:{peer_port}")])?;
    let refusal = eventually("a refusal", SOON, || stranger.refusals.lock().first().cloned());
    transport.stop();
    refusal
}

#[test]
fn a_member_of_another_cluster_and_one_that_looks_for_another_member_are_refused() {
    scenario("wrong-cluster", |scratch| {
        let mut ours = Cluster::start(scratch, 1)?;
        let port = ours.members[0].flags.peer_port;
        let id = ours.client(0)?.members()?[0].id;
        let Refusal::WrongCluster { ours: cluster, theirs: 99 } = refusal(port, 99, id)? else {
            return Err(Failure::new("refused for another reason"));
        };
        let wrong = refusal(port, cluster, id + 1)?;
        assert_eq!(wrong, Refusal::WrongMember { expected: id + 1, actual: id });
        assert!(ours.members[0].metric("oarlock_network_refused_total")? >= 2.0);
        assert!(ours.members[0].process()?.ended().is_none());
        ours.client(0)?.put("k", "v")?;
        Ok(())
    });
}

/// Its peers all belong to another cluster: it says so before it writes anything.
#[test]
fn a_founder_among_strangers_is_told_so() {
    scenario("strangers", |scratch| {
        let mut ours = Cluster::start(scratch, 1)?;
        let mut flags = Flags::new(scratch.path(), "theirs")?;
        flags.token = "another".to_owned();
        flags.initial_cluster =
            format!("{},{}", flags.as_initial(), ours.members[0].flags.as_initial());
        let mut theirs = Member::new(scratch, flags)?;
        theirs.spawn()?;
        let status = eventually("its end", SOON, || theirs.process().ok()?.ended())?;
        assert_eq!(status.code(), Some(78), "{}", theirs.log_text());
        assert!(theirs.log_text().contains("belong to another one"), "{}", theirs.log_text());
        assert!(ours.members[0].process()?.ended().is_none());
        assert_eq!(ours.client(0)?.members()?.len(), 1);
        Ok(())
    });
}
