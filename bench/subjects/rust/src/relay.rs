//! One side of the pair: an epoll thread that carries application connections through tunnels, one at a time in each.
//!
//! Belongs here: sockets, frames, turns and the pool of idle tunnels. Left out, because this is a floor: attestation,
//! decisions, records, CLOSING, REKEY, deadlines, limits. A fault ends the connection and its tunnel.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::tls::{advance, seal, End, Fault};

const HEADER: usize = 4;
const PAYLOAD: usize = 16_380;
const SLOT: usize = HEADER + PAYLOAD;
const SLOTS: usize = 4;
const RECORD_OVERHEAD: usize = 64;
const BUDGET: usize = 256 * 1024;
const MAX_IDLE: usize = 64;
const OPEN: u8 = 1;
const ACCEPT: u8 = 2;
const DATA: u8 = 4;
const END: u8 = 5;

pub struct Route {
    pub listener: TcpListener,
    pub target: SocketAddr,
    pub idle: Vec<usize>,
}

/// A socket, and what epoll's edges have said of it.
struct Plug {
    stream: TcpStream,
    can_read: bool,
    can_write: bool,
    has_ended: bool,
}

struct Link<T> {
    route: usize,
    tls: T,
    tunnel: Plug,
    app: Option<Plug>,
    has_begun: bool,
    is_ready: bool,
    is_queued: bool,
    epoch: u8,
    owed: Option<u8>,
    sent_end: bool,
    got_end: bool,
    // Empty, and without memory, while nothing waits.
    encrypted_in: Vec<u8>,
    encrypted_out: Vec<u8>,
    frames_in: Vec<u8>,
}

pub struct Relay<T: End> {
    context: T::Context,
    routes: Vec<Route>,
    reuses: bool,
    poll: Poll,
    links: Vec<Option<Box<Link<T>>>>,
    free: Vec<usize>,
    queue: VecDeque<usize>,
    read: Vec<u8>,
    slots: Vec<u8>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

fn header(kind: u8, epoch: u8, length: usize) -> [u8; HEADER] {
    [kind, epoch, (length >> 8) as u8, length as u8]
}

/// Return a whole frame's type, epoch and length of payload.
fn parse(bytes: &[u8]) -> Option<(u8, u8, usize)> {
    let length = usize::from(*bytes.get(2)?) << 8 | usize::from(*bytes.get(3)?);
    (bytes.len() >= HEADER + length).then(|| (bytes[0], bytes[1], length))
}

impl Plug {
    fn new(stream: TcpStream, can_write: bool) -> Result<Self, Fault> {
        if can_write {
            stream.set_nodelay(true)?;
        }
        Ok(Self { stream, can_read: false, can_write, has_ended: false })
    }

    /// Note a short or an impossible transfer; the next edge says when there is more.
    fn note_read(&mut self, result: std::io::Result<usize>, wanted: usize) -> Result<Option<usize>, Fault> {
        match result {
            Ok(count) => {
                self.can_read = count == wanted || self.has_ended;
                Ok(Some(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.can_read = false;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn note_write(&mut self, result: std::io::Result<usize>, wanted: usize) -> Result<usize, Fault> {
        let count = match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            other => other?,
        };
        self.can_write = count == wanted;
        Ok(count)
    }
}

impl<T> Link<T> {
    fn transmit(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut sent = 0;
        if self.encrypted_out.is_empty() && self.tunnel.can_write {
            let result = self.tunnel.stream.write(bytes);
            sent = self.tunnel.note_write(result, bytes.len())?;
        }
        self.encrypted_out.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn is_blocked(&self) -> bool {
        self.app.as_ref().is_some_and(|app| !app.can_write)
    }
}

impl<T: End> Relay<T> {
    pub fn new(context: T::Context, mut routes: Vec<Route>, reuses: bool) -> Result<Self, Fault> {
        let poll = Poll::new()?;
        for (number, route) in routes.iter_mut().enumerate() {
            poll.registry().register(&mut route.listener, Token(number), Interest::READABLE)?;
        }
        Ok(Self {
            context,
            routes,
            reuses,
            poll,
            links: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            read: vec![0; 2 * SLOTS * (SLOT + RECORD_OVERHEAD)],
            slots: vec![0; SLOTS * SLOT],
            sealed: vec![0; (SLOTS + 1) * (SLOT + RECORD_OVERHEAD)],
            plain: Vec::new(),
        })
    }

    pub fn run(&mut self) -> Result<(), Fault> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = (!self.queue.is_empty()).then_some(std::time::Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                let Some(number) = event.token().0.checked_sub(self.routes.len()) else {
                    self.accept(event.token().0)?;
                    continue;
                };
                let Some(Some(link)) = self.links.get_mut(number / 2) else {
                    continue;
                };
                let plug = if number % 2 == 0 { Some(&mut link.tunnel) } else { link.app.as_mut() };
                let Some(plug) = plug else { continue };
                plug.can_read |= event.is_readable() || event.is_error();
                plug.can_write |= event.is_writable();
                plug.has_ended |= event.is_read_closed() || event.is_error();
                self.enqueue(number / 2);
            }
            // A number is free for a new link only after all events that may speak of the old one.
            let mut freed = Vec::new();
            for _ in 0..self.queue.len() {
                let Some(number) = self.queue.pop_front() else {
                    break;
                };
                let Some(mut link) = self.links[number].take() else {
                    continue;
                };
                link.is_queued = false;
                match self.work(number, &mut link) {
                    Ok(more) => {
                        self.links[number] = Some(link);
                        if more {
                            self.enqueue(number);
                        }
                    }
                    Err(_) => {
                        self.routes[link.route].idle.retain(|idle| *idle != number);
                        freed.push(number);
                    }
                }
            }
            self.free.append(&mut freed);
        }
    }

    fn enqueue(&mut self, number: usize) {
        if let Some(link) = self.links[number].as_mut().filter(|link| !link.is_queued) {
            link.is_queued = true;
            self.queue.push_back(number);
        }
    }

    fn register(&self, stream: &mut TcpStream, number: usize, is_app: bool) -> Result<(), Fault> {
        let token = Token(self.routes.len() + number * 2 + usize::from(is_app));
        Ok(self.poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?)
    }

    fn accept(&mut self, route: usize) -> Result<(), Fault> {
        loop {
            let (stream, _) = match self.routes[route].listener.accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            if !T::IS_CLIENT {
                self.add(route, stream, true)?;
                continue;
            }
            let number = match self.routes[route].idle.pop() {
                Some(number) => number,
                None => self.add(route, TcpStream::connect(self.routes[route].target)?, false)?,
            };
            let mut app = Plug::new(stream, true)?;
            self.register(&mut app.stream, number, true)?;
            app.can_read = true;
            if let Some(link) = self.links[number].as_mut() {
                link.app = Some(app);
                link.epoch = link.epoch.wrapping_add(1);
                link.owed = Some(OPEN);
            }
            self.enqueue(number);
        }
    }

    fn add(&mut self, route: usize, stream: TcpStream, is_connected: bool) -> Result<usize, Fault> {
        let number = self.free.pop().unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let mut tunnel = Plug::new(stream, is_connected)?;
        self.register(&mut tunnel.stream, number, false)?;
        self.links[number] = Some(Box::new(Link {
            route,
            tls: T::begin(&self.context)?,
            tunnel,
            app: None,
            has_begun: false,
            is_ready: false,
            is_queued: false,
            epoch: 0,
            owed: None,
            sent_end: false,
            got_end: false,
            encrypted_in: Vec::new(),
            encrypted_out: Vec::new(),
            frames_in: Vec::new(),
        }));
        Ok(number)
    }

    /// Do what can be done now, within a budget; return whether there is more.
    fn work(&mut self, number: usize, link: &mut Link<T>) -> Result<bool, Fault> {
        if !link.has_begun && link.tunnel.can_write {
            link.has_begun = true;
            link.tunnel.stream.set_nodelay(true)?;
            self.advance(link, 0)?;
        }
        if !link.encrypted_out.is_empty() && link.tunnel.can_write {
            let waiting = std::mem::take(&mut link.encrypted_out);
            link.transmit(&waiting)?;
        }
        let more_down = self.carry_down(number, link)?;
        let more_up = link.is_ready && self.carry_up(link)?;
        self.end_turn(number, link)?;
        Ok(more_down || more_up)
    }

    fn advance(&mut self, link: &mut Link<T>, count: usize) -> Result<(), Fault> {
        let mut out = Vec::new();
        let (used, is_ready) = advance(&mut link.tls, &mut self.read[..count], &mut self.plain, &mut out)?;
        link.encrypted_in.extend_from_slice(&self.read[used..count]);
        if !out.is_empty() {
            link.transmit(&out)?;
        }
        if is_ready && !link.is_ready {
            link.tls.check_name()?;
            link.is_ready = true;
        }
        Ok(())
    }

    fn carry_down(&mut self, number: usize, link: &mut Link<T>) -> Result<bool, Fault> {
        let mut carried = 0;
        loop {
            self.plain.clear();
            self.plain.extend_from_slice(&std::mem::take(&mut link.frames_in));
            let waits = parse(&self.plain).is_some() && link.is_blocked();
            if !waits && link.tunnel.can_read {
                let kept = link.encrypted_in.len();
                self.read[..kept].copy_from_slice(&link.encrypted_in);
                link.encrypted_in = Vec::new();
                let wanted = self.read.len() - kept;
                let result = link.tunnel.stream.read(&mut self.read[kept..]);
                match link.tunnel.note_read(result, wanted)? {
                    Some(0) => return Err("the tunnel has ended".into()),
                    got => self.advance(link, kept + got.unwrap_or(0))?,
                }
            }
            let delivered = self.deliver(number, link)?;
            carried += delivered;
            link.frames_in = self.plain[delivered..].to_vec();
            if parse(&link.frames_in).is_some() || !link.tunnel.can_read {
                return Ok(false);
            }
            if carried >= BUDGET {
                return Ok(true);
            }
        }
    }

    /// Give the tunnel back where both sides have ended.
    fn end_turn(&mut self, number: usize, link: &mut Link<T>) -> Result<(), Fault> {
        if !link.sent_end || !link.got_end {
            return Ok(());
        }
        (link.app, link.sent_end, link.got_end) = (None, false, false);
        if T::IS_CLIENT {
            let idle = &mut self.routes[link.route].idle;
            if !self.reuses || idle.len() >= MAX_IDLE {
                return Err("not kept".into());
            }
            idle.push(number);
        }
        Ok(())
    }

    /// Hand whole frames over; return how many bytes of `plain` are done.
    fn deliver(&mut self, number: usize, link: &mut Link<T>) -> Result<usize, Fault> {
        let mut at = 0;
        while let Some((kind, epoch, length)) = parse(&self.plain[at..]) {
            match (kind, link.app.as_mut()) {
                (DATA, Some(app)) if epoch == link.epoch => {
                    if !app.can_write {
                        return Ok(at);
                    }
                    let mut run = [IoSlice::new(&[]); 16];
                    let (mut frames, mut end, mut total) = (0, at, 0);
                    while let Some((DATA, _, length)) = parse(&self.plain[end..]).filter(|_| frames < run.len()) {
                        run[frames] = IoSlice::new(&self.plain[end + HEADER..end + HEADER + length]);
                        (frames, end, total) = (frames + 1, end + HEADER + length, total + length);
                    }
                    let result = app.stream.write_vectored(&run[..frames]);
                    let mut left = app.note_write(result, total)?;
                    while let Some((DATA, _, length)) = parse(&self.plain[at..end]) {
                        if left < length {
                            // What is left of a frame becomes a shorter one.
                            at += left;
                            self.plain[at..at + HEADER].copy_from_slice(&header(DATA, epoch, length - left));
                            return Ok(at);
                        }
                        (at, left) = (at + HEADER + length, left - length);
                    }
                    continue;
                }
                (OPEN, None) if !T::IS_CLIENT && epoch == link.epoch.wrapping_add(1) => {
                    let mut app = Plug::new(TcpStream::connect(self.routes[link.route].target)?, false)?;
                    self.register(&mut app.stream, number, true)?;
                    link.app = Some(app);
                    link.epoch = epoch;
                    link.owed = Some(ACCEPT);
                }
                (ACCEPT, Some(_)) if T::IS_CLIENT && epoch == link.epoch => {}
                (END, Some(app)) if epoch == link.epoch && !link.got_end => {
                    if !app.can_write {
                        return Ok(at);
                    }
                    app.stream.shutdown(Shutdown::Write)?;
                    link.got_end = true;
                    self.end_turn(number, link)?;
                }
                _ => return Err("not a frame for now".into()),
            }
            at += HEADER + length;
        }
        Ok(at)
    }

    fn carry_up(&mut self, link: &mut Link<T>) -> Result<bool, Fault> {
        let mut carried = 0;
        while let Some(app) = link.app.as_mut() {
            if link.sent_end || !link.encrypted_out.is_empty() || !(T::IS_CLIENT || app.can_write || app.can_read) {
                break;
            }
            if carried >= BUDGET {
                return Ok(true);
            }
            let mut end = 0;
            if let Some(kind) = link.owed.take() {
                if kind == ACCEPT {
                    app.stream.set_nodelay(true)?;
                }
                // OPEN's payload: connection id, destination and source, as Touchmark's for IPv4.
                let length = if kind == OPEN { 23 } else { 0 };
                self.slots[..HEADER].copy_from_slice(&header(kind, link.epoch, length));
                end += seal(&mut link.tls, &self.slots[..HEADER + length], &mut self.sealed)?;
            }
            let mut count = 0;
            if app.can_read {
                let mut parts = self.slots.chunks_exact_mut(SLOT).map(|slot| IoSliceMut::new(&mut slot[HEADER..]));
                let mut parts: [IoSliceMut; SLOTS] = std::array::from_fn(|_| parts.next().expect("a slot"));
                let result = app.stream.read_vectored(&mut parts);
                let got = app.note_read(result, SLOTS * PAYLOAD)?;
                count = got.unwrap_or(0);
                let mut left = count;
                for slot in self.slots.chunks_exact_mut(SLOT) {
                    let length = left.min(PAYLOAD);
                    let kind = if got == Some(0) { END } else { DATA };
                    if length == 0 && kind == DATA {
                        break;
                    }
                    slot[..HEADER].copy_from_slice(&header(kind, link.epoch, length));
                    end += seal(&mut link.tls, &slot[..HEADER + length], &mut self.sealed[end..])?;
                    left -= length;
                    if kind == END {
                        link.sent_end = true;
                        break;
                    }
                }
            }
            if end == 0 {
                break;
            }
            link.transmit(&self.sealed[..end])?;
            carried += count;
        }
        Ok(false)
    }
}
