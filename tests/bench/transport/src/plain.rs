//! Plain TCP: what the kernel takes for moving as many bytes, with nothing around them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use oarlock_bench_harness::Result;

use crate::pair::Arrived;

fn connected() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// A connection whose other end reads as much as it can at a time, and counts.
pub(crate) struct OneWay {
    stream: TcpStream,
    arrived: Arc<Arrived>,
}

impl OneWay {
    pub(crate) fn new() -> Result<Self> {
        let (stream, mut far) = connected()?;
        let arrived = Arc::<Arrived>::default();
        let counting = Arc::clone(&arrived);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10]; // larger ones leave the cache, and are slower
            while let Ok(count @ 1..) = far.read(&mut buffer) {
                counting.add(count as u64);
            }
        });
        Ok(Self { stream, arrived })
    }

    /// Writes `bytes` so many times, and waits until all has arrived.
    pub(crate) fn run(&mut self, bytes: &[u8], times: usize) -> Result<()> {
        let goal = self.arrived.count() + (bytes.len() * times) as u64;
        for _ in 0..times {
            self.stream.write_all(bytes)?;
        }
        self.arrived.wait(goal)
    }
}

/// A connection whose other end sends back what it gets.
pub(crate) struct RoundTrip {
    stream: TcpStream,
}

impl RoundTrip {
    pub(crate) fn new() -> Result<Self> {
        let (stream, mut far) = connected()?;
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = far.read(&mut buffer) {
                if far.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stream })
    }

    pub(crate) fn run(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)?;
        let mut back = [0; 4096];
        let back = back.get_mut(..bytes.len()).ok_or("too long")?;
        Ok(self.stream.read_exact(back)?)
    }
}
