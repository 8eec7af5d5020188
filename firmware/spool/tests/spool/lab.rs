//! What the tests share: messages, spools, outcomes.

use jiff::Timestamp;
use mail::{BodyType, Client, Destination, Envelope, MessageId, Outcome, RecipientOutcome, Reply, Verdict};
use spool::{
    Acceptance, Claim, Config, Disk, Filter, Keys, Planned, RealDisk, Receipt, Recovery, Row, Settlement, Spool,
};
use std::{io::Read, path::Path, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// A string that must be nowhere on the disk.
pub const PLANTED: &[u8] = b"Zebra-Quartz-4711-planted";

pub fn index_key() -> vault::Key<vault::purpose::QueueIndex> {
    vault::Key::from_bytes(Zeroizing::new([7; 32]))
}

pub fn keys() -> Keys {
    let epochs = vec![(1, vault::Key::from_bytes(Zeroizing::new([9; 32])))];
    Keys { epochs: Arc::new(vault::Epochs::fixed(epochs)), index: index_key() }
}

/// Small segments, so that they fill and go.
pub fn config(folder: &Path) -> Config {
    let mut config = Config::new(folder.join("queue.db"));
    config.segment_bytes = 256 << 10;
    config.reserve_bytes = 0;
    config.index_every = Duration::from_millis(50);
    config
}

pub fn real(folder: &Path) -> Arc<dyn Disk> {
    // The lock of a spool that is being dropped goes a moment later.
    for _ in 0..500 {
        match RealDisk::open(folder) {
            Ok(disk) => return Arc::new(disk),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the spool's folder stays locked")
}

pub fn open(folder: &Path) -> (Spool, Recovery) {
    Spool::open(config(folder), keys(), real(folder)).unwrap()
}

/// A message to `recipients` people, each with an address that names the planted string.
pub fn acceptance(id: MessageId, deliveries: Vec<Planned>) -> Acceptance {
    let recipients = deliveries.iter().map(|planned| planned.recipients.len()).sum();
    let envelope = Envelope {
        id,
        sender: "sender-Zebra-Quartz-4711-planted@example.org".parse().unwrap(),
        recipients: (0..recipients)
            .map(|n| format!("to{n}-Zebra-Quartz-4711-planted@example.net").parse().unwrap())
            .collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        client: Client { ip: [192, 0, 2, 1].into(), helo: "client.example.org".into(), esmtp: true, tls: None },
        received: Timestamp::now(),
    };
    let prefix = b"Received: from client.example.org\r\n".to_vec();
    Acceptance { envelope, verdict: Verdict::default(), prefix, deliveries, settings_revision: 3 }
}

pub fn to(destination: Destination, recipients: &[u16]) -> Planned {
    Planned { destination, recipients: recipients.to_vec(), held: None }
}

pub fn held(destination: Destination, recipients: &[u16]) -> Planned {
    Planned { held: Some("rule: look at it".into()), ..to(destination, recipients) }
}

/// A body that begins with the message's ID and ends with the planted string.
pub fn body(id: MessageId, length: usize) -> Vec<u8> {
    let mut body = id.to_string().into_bytes();
    while body.len() + PLANTED.len() < length {
        let byte = b'a' + (body.len() % 26) as u8;
        body.push(byte);
    }
    body.extend_from_slice(PLANTED);
    body
}

pub async fn accept(spool: &Spool, length: usize, deliveries: Vec<Planned>) -> Receipt {
    let id = MessageId::generate();
    try_accept(spool, id, length, deliveries).await.unwrap()
}

pub async fn try_accept(
    spool: &Spool,
    id: MessageId,
    length: usize,
    deliveries: Vec<Planned>,
) -> Result<Receipt, spool::CommitError> {
    let mut staging = spool.stage(id)?;
    for piece in body(id, length).chunks(10_000) {
        staging.write(piece)?;
    }
    let staged = staging.finish()?;
    spool.commit(staged, acceptance(id, deliveries)).await
}

pub async fn accept_one(spool: &Spool, length: usize) -> MessageId {
    accept(spool, length, vec![to(Destination::Smarthost, &[0])]).await.message()
}

/// All octets that a claim would send.
pub fn octets(claim: &Claim) -> std::io::Result<Vec<u8>> {
    let mut content = claim.open()?;
    let mut all = Vec::new();
    while let Some(piece) = content.next_chunk()? {
        all.extend(piece);
    }
    assert_eq!(all.len() as u64, content.len());
    Ok(all)
}

/// The octets without the prefix, which must be there.
pub fn sent_body(claim: &Claim) -> Vec<u8> {
    let all = octets(claim).unwrap();
    let prefix = &claim.acceptance().prefix;
    assert!(all.starts_with(prefix));
    all[prefix.len()..].to_vec()
}

pub fn reply(code: u16) -> Reply {
    Reply::plain(code, format!("said {code}"))
}

pub fn delivered(claim: &Claim) -> Settlement {
    outcomes(claim, |_| Outcome::Delivered(reply(250)))
}

pub fn outcomes(claim: &Claim, outcome: impl Fn(u16) -> Outcome) -> Settlement {
    let one = |recipient: &u16| RecipientOutcome { recipient: *recipient, outcome: outcome(*recipient) };
    Settlement { outcomes: claim.recipients().iter().map(one).collect(), retry_at: None }
}

pub async fn rows(spool: &Spool) -> Vec<Row> {
    spool.list(Filter::default(), 1_000_000).await.unwrap()
}

/// Claims until nothing is due for a while; settles all as delivered; gives what was sent.
pub async fn deliver_all(spool: &Spool) -> Vec<(MessageId, u32)> {
    let mut sent = Vec::new();
    loop {
        match spool.claim(Timestamp::now()) {
            Some(claim) => {
                let body = sent_body(&claim);
                assert!(body.starts_with(claim.message().to_string().as_bytes()), "another message's body");
                sent.push((claim.message(), claim.delivery()));
                let settlement = delivered(&claim);
                spool.settle(claim, settlement).await.unwrap();
            }
            None => {
                if tokio::time::timeout(Duration::from_millis(150), spool.due()).await.is_err() {
                    return sent;
                }
            }
        }
    }
}

pub fn read_all(staged: &spool::Staged) -> Vec<u8> {
    let mut all = Vec::new();
    staged.open().read_to_end(&mut all).unwrap();
    all
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// A folder in memory for `queue.db`: its syncs are not what is tested where segments are simulated.
pub fn shared_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
