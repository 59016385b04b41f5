//! What both ends present and demand, and rustls as a state machine between two buffers.
//!
//! Belongs here: contexts and single steps. Doesn't: sockets and frames (`relay.rs`). Unbuffered connections: rustls'
//! buffered ones read 4 KiB at a time, and keep buffers while a connection is idle.

use std::sync::Arc;

use rustls::client::{verify_server_name, ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::{aws_lc_rs, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    NoServerSessionStorage, ParsedCertificate, ServerConnectionData, ServerSessionMemoryCache,
    UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub type Fault = Box<dyn std::error::Error>;

const CLIENT_NAME: &str = "client.bench.invalid";
const SERVER_NAME: &str = "server.bench.invalid";
const SESSIONS: usize = 256;

/// One end's TLS connection: rustls has two types with the same methods.
pub trait End: Sized {
    type Data;
    type Context: Clone;
    const IS_CLIENT: bool;
    fn begin(context: &Self::Context) -> Result<Self, Fault>;
    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Raises where the peer's chain is good and its name is another; rustls has verified a server's name itself.
    fn check_name(&self) -> Result<(), Fault>;
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    type Context = Arc<ClientConfig>;
    const IS_CLIENT: bool = true;
    fn begin(context: &Self::Context) -> Result<Self, Fault> {
        Ok(Self::new(context.clone(), ServerName::try_from(SERVER_NAME)?)?)
    }
    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
    fn check_name(&self) -> Result<(), Fault> {
        Ok(())
    }
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    type Context = Arc<ServerConfig>;
    const IS_CLIENT: bool = false;
    fn begin(context: &Self::Context) -> Result<Self, Fault> {
        Ok(Self::new(context.clone())?)
    }
    fn step<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
    fn check_name(&self) -> Result<(), Fault> {
        let leaf = self.peer_certificates().and_then(|chain| chain.first()).ok_or("the client has no certificate")?;
        Ok(verify_server_name(&ParsedCertificate::try_from(leaf)?, &ServerName::try_from(CLIENT_NAME)?)?)
    }
}

/// Where a side's PEM files lie.
pub struct Material {
    pub chain: String,
    pub key: String,
    pub root: String,
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<RootCertStore>, Arc<CryptoProvider>);

fn load(material: &Material) -> Result<Own, Fault> {
    let chain = CertificateDer::pem_file_iter(&material.chain)?.collect::<Result<_, _>>()?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&material.root)?)?;
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    };
    Ok((chain, PrivateKeyDer::from_pem_file(&material.key)?, Arc::new(roots), Arc::new(provider)))
}

pub fn client_context(material: &Material, resumes: bool) -> Result<Arc<ClientConfig>, Fault> {
    let (chain, key, roots, provider) = load(material)?;
    let mut context = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    context.resumption = if resumes { Resumption::in_memory_sessions(SESSIONS) } else { Resumption::disabled() };
    Ok(Arc::new(context))
}

pub fn server_context(material: &Material, resumes: bool) -> Result<Arc<ServerConfig>, Fault> {
    let (chain, key, roots, provider) = load(material)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut context = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    context.send_tls13_tickets = usize::from(resumes);
    context.session_storage =
        if resumes { ServerSessionMemoryCache::new(SESSIONS) } else { Arc::new(NoServerSessionStorage {}) };
    Ok(Arc::new(context))
}

/// Take in what came, append plaintext and what is to be sent; return how many bytes were used, and whether data may go.
pub fn advance<T: End>(
    tls: &mut T,
    input: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(usize, bool), Fault> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = tls.step(&mut input[used..]);
        let mut done = None;
        match state? {
            ConnectionState::ReadTraffic(mut records) => {
                while let Some(record) = records.next_record() {
                    plain.extend_from_slice(record?.payload);
                }
            }
            ConnectionState::EncodeTlsData(mut message) => {
                let at = out.len();
                if let Err(EncodeError::InsufficientSize(size)) = message.encode(&mut []) {
                    out.resize(at + size.required_size, 0);
                    message.encode(&mut out[at..])?;
                }
            }
            ConnectionState::TransmitTlsData(message) => message.done(),
            ConnectionState::BlockedHandshake => done = Some(false),
            ConnectionState::WriteTraffic(_) => done = Some(true),
            _ => return Err("the peer has ended TLS".into()),
        }
        used += discard;
        if let Some(is_ready) = done {
            return Ok((used, is_ready));
        }
    }
}

/// Encrypt one frame as one record into `out` and return the record's length.
pub fn seal<T: End>(tls: &mut T, frame: &[u8], out: &mut [u8]) -> Result<usize, Fault> {
    match tls.step(&mut []).state? {
        ConnectionState::WriteTraffic(mut traffic) => Ok(traffic.encrypt(frame, out)?),
        state => Err(format!("not able to send: {state:?}").into()),
    }
}
