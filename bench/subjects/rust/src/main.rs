//! A floor for a core in Rust: `rust-floor client|server CHAIN KEY ROOT once|again LISTEN=TARGET…`, or
//! `rust-floor handshakes CHAIN KEY ROOT CHAIN KEY ROOT COUNT` (the client's, the server's), which prints what TLS costs.

mod relay;
mod tls;

use mio::net::TcpListener;
use relay::{Relay, Route};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use tls::{advance, client_context, server_context, Fault, Material};

type Pair = (UnbufferedClientConnection, UnbufferedServerConnection);

fn shake_hands(
    contexts: &(<UnbufferedClientConnection as tls::End>::Context, <UnbufferedServerConnection as tls::End>::Context),
) -> Result<Pair, Fault> {
    let (mut client, mut server) = (tls::End::begin(&contexts.0)?, tls::End::begin(&contexts.1)?);
    let (mut up, mut down, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let (used, is_client_ready) = advance(&mut client, &mut down, &mut plain, &mut up)?;
        down.drain(..used);
        let (used, is_server_ready) = advance(&mut server, &mut up, &mut plain, &mut down)?;
        up.drain(..used);
        if is_client_ready && is_server_ready && down.is_empty() {
            tls::End::check_name(&server)?;
            return Ok((client, server));
        }
    }
}

/// Return this thread's processor time in µs (proc(5), schedstat).
fn spent_us() -> Result<f64, Fault> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().ok_or("schedstat")?.parse::<f64>()? / 1e3)
}

fn resident_kib() -> Result<f64, Fault> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    Ok(text.split(' ').nth(1).ok_or("statm")?.parse::<f64>()? * 4.0)
}

fn measure(client: &Material, server: &Material, count: usize) -> Result<(), Fault> {
    for (name, resumes) in [("full", false), ("resumed", true)] {
        let contexts = (client_context(client, resumes)?, server_context(server, resumes)?);
        drop(shake_hands(&contexts)?);
        let began = spent_us()?;
        for _ in 0..count {
            drop(shake_hands(&contexts)?);
        }
        println!("{:8.0} us CPU, both ends: {name}", (spent_us()? - began) / count as f64);
    }
    let contexts = (client_context(client, false)?, server_context(server, false)?);
    let before = resident_kib()?;
    let pairs = (0..count).map(|_| shake_hands(&contexts)).collect::<Result<Vec<_>, _>>()?;
    println!("{:8.1} KiB of rustls', both ends, after it", (resident_kib()? - before) / pairs.len() as f64);
    Ok(())
}

fn main() -> Result<(), Fault> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let material =
        |at: usize| Material { chain: words[at].clone(), key: words[at + 1].clone(), root: words[at + 2].clone() };
    if words[0] == "handshakes" {
        return measure(&material(1), &material(4), words[7].parse()?);
    }
    let reuses = words[4] == "again";
    let mut routes = Vec::new();
    for word in &words[5..] {
        let (listen, target) = word.split_once('=').ok_or("LISTEN=TARGET")?;
        routes.push(Route { listener: TcpListener::bind(listen.parse()?)?, target: target.parse()?, idle: Vec::new() });
    }
    // Sessions help only where tunnels aren't used again.
    match words[0].as_str() {
        "client" => {
            Relay::<UnbufferedClientConnection>::new(client_context(&material(1), !reuses)?, routes, reuses)?.run()
        }
        "server" => {
            Relay::<UnbufferedServerConnection>::new(server_context(&material(1), !reuses)?, routes, reuses)?.run()
        }
        other => Err(format!("{other}: client or server").into()),
    }
}
