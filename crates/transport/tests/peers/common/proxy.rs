//! A proxy between two members, which does to their connections what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Which way bytes go: from the dialler, or back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
}

/// Forwards connections to a member, as long as it is not told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    wires: Arc<Wires>,
}

struct Wires {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: Vec<TcpStream>,
    /// Bytes are read and lost, and nobody is told of an end: a cable pulled out, a firewall that forgot.
    swallow: [bool; 2],
    /// Nothing is read: a receiver that has stopped.
    stall: [bool; 2],
    /// One bit flips after so many bytes.
    flip: [Option<usize>; 2],
    delay: Duration,
    /// Bytes a second on each connection.
    rate: Option<u32>,
    ended: bool,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let wires = Arc::new(Wires { target, state: Mutex::default(), changed: Condvar::new() });
        let inner = Arc::clone(&wires);
        thread::spawn(move || inner.accept(&listener));
        Self { address, wires }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends every connection there is; new ones may come.
    pub(crate) fn cut(&self) {
        end(&mut self.wires.state.lock().open);
    }

    /// From now on what goes these ways is lost. Connections made before stay dead when this ends.
    pub(crate) fn swallow(&self, ways: &[Way]) {
        self.set(|state| ways.iter().for_each(|way| state.swallow[*way as usize] = true));
    }

    /// From now on nobody reads what goes this way.
    pub(crate) fn stall(&self, way: Way) {
        self.set(|state| state.stall[way as usize] = true);
    }

    /// One bit of what goes this way will flip, after so many more bytes.
    pub(crate) fn flip(&self, way: Way, after: usize) {
        self.set(|state| state.flip[way as usize] = Some(after));
    }

    /// Whatever was to flip has flipped.
    pub(crate) fn has_flipped(&self) -> bool {
        self.wires.state.lock().flip == [None; 2]
    }

    /// Everything takes so much longer each way.
    pub(crate) fn delay(&self, delay: Duration) {
        self.set(|state| state.delay = delay);
    }

    /// No connection carries more than so many bytes a second.
    pub(crate) fn rate(&self, bytes: u32) {
        self.set(|state| state.rate = Some(bytes));
    }

    /// Nothing is swallowed or stalled any more. What was lost stays lost, so such connections end.
    pub(crate) fn heal(&self) {
        self.set(|state| {
            (state.swallow, state.stall) = ([false; 2], [false; 2]);
            end(&mut state.open);
        });
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.wires.state.lock());
        self.wires.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(|state| {
            state.ended = true;
            end(&mut state.open);
        });
        let _ = TcpStream::connect(self.address); // wakes the listener
    }
}

fn end(open: &mut Vec<TcpStream>) {
    for stream in open.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Wires {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for near in listener.incoming().map_while(Result::ok) {
            if self.state.lock().ended {
                return;
            }
            let Ok(far) = TcpStream::connect(self.target) else { continue };
            for (from, to, way) in [(&near, &far, Way::There), (&far, &near, Way::Back)] {
                let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                let (wires, from, to) = (Arc::clone(&self), clone(from), clone(to));
                let _ = from.set_nodelay(true);
                thread::spawn(move || wires.carry(way, from, to));
            }
            self.state.lock().open.extend([near, far]);
        }
    }

    fn carry(&self, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 << 10];
        loop {
            let mut state = self.state.lock();
            while state.stall[way as usize] && !state.ended {
                self.changed.wait(&mut state);
            }
            drop(state);
            let count = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let mut state = self.state.lock();
            if state.swallow[way as usize] {
                continue;
            }
            if let Some(after) = state.flip[way as usize] {
                state.flip[way as usize] = after.checked_sub(count);
                if after < count {
                    buffer[after] ^= 1 << (after % 8);
                }
            }
            let slow = state.rate.map(|rate| Duration::from_secs(1) * count as u32 / rate);
            let time = state.delay + slow.unwrap_or_default();
            drop(state);
            thread::sleep(time);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        if !self.state.lock().swallow[way as usize] {
            let _ = to.shutdown(Shutdown::Write);
        }
    }
}
