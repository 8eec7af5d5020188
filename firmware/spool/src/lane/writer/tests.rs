use super::*;
use crate::{
    Acceptance, Config, Disk, Event, EventKind, Group, Held, HeldBy, Keys, Planned,
    disk::SimulatedDisk,
    fact::event,
    index::{Request, Requests},
    queue::{ContentPlace, Snapshot},
    snapshot,
    stage::Staging,
};
use jiff::Timestamp;
use mail::{BodyType, Client, Destination, Envelope, Verdict};
use std::sync::mpsc::Receiver;
use zeroize::Zeroizing;

struct Lane {
    disk: SimulatedDisk,
    shared: Arc<Shared>,
    writer: Writer,
    _requests: Receiver<Request>,
}

/// A lane without a thread, so that a test says what comes together.
fn lane(segment_bytes: u64) -> Lane {
    let disk = SimulatedDisk::new();
    let mut config = Config::new("unused".into());
    config.segment_bytes = segment_bytes;
    config.reserve_bytes = 0;
    let epochs = vec![(1, vault::Key::from_bytes(Zeroizing::new([9; 32])))];
    let keys =
        Keys { epochs: Arc::new(vault::Epochs::fixed(epochs)), index: vault::Key::from_bytes(Zeroizing::new([7; 32])) };
    let (requests, received) = Requests::new();
    let shared = Arc::new(Shared::new(config, keys, Arc::new(disk.clone()), requests));
    let writer = Writer::new(Arc::clone(&shared), 0, Vec::new(), Vec::new());
    Lane { disk, shared, writer, _requests: received }
}

impl Lane {
    fn message(&self, length: usize) -> (Box<MessageJob>, oneshot::Receiver<io::Result<Receipt>>) {
        let id = MessageId::generate();
        let Shared { epochs, config, budget, room, .. } = self.shared.as_ref();
        let mut staging = Staging::begin(id, epochs, config.suite, budget, room.clone()).unwrap();
        staging.write(&vec![b'a'; length]).unwrap();
        let staged = staging.finish().unwrap();
        let envelope = Envelope {
            id,
            sender: "a@example.org".parse().unwrap(),
            recipients: vec!["b@example.net".parse().unwrap(), "c@example.net".parse().unwrap()],
            body: BodyType::SevenBit,
            smtputf8: false,
            client: Client { ip: [192, 0, 2, 1].into(), helo: "client.example.org".into(), esmtp: true, tls: None },
            received: Timestamp::now(),
        };
        let planned =
            |recipient| Planned { destination: Destination::Smarthost, recipients: vec![recipient], held: None };
        let deliveries = vec![planned(0), planned(1)];
        let acceptance =
            Acceptance { envelope, verdict: Verdict::default(), prefix: Vec::new(), deliveries, settings_revision: 1 };
        let content = ContentPlace {
            stream: staged.stream_prefix(),
            length: staged.len(),
            spill: staged.spill_name().map(str::to_owned),
        };
        let (payload, snapshot): (_, Arc<Snapshot>) =
            snapshot::build(staged.key(), Arc::new(acceptance), content, staged.inline()).unwrap();
        let (done, receipt) = oneshot::channel();
        let (slot, key) = (staged.slot().clone(), Arc::clone(staged.key()));
        (Box::new(MessageJob { payload, slot, key, snapshot, staged, done }), receipt)
    }

    /// A hold of one group, with a reason of this many bytes.
    fn hold(&self, id: MessageId, group: u32, why: usize) -> Job {
        let mut state = self.shared.queue.lock();
        let message = state.messages.get_mut(&id).unwrap();
        message.next_fact += 1;
        message.pending += 1;
        let held = Held { by: HeldBy::Operator, why: "y".repeat(why) };
        let group = Group { held: Some(held), ..message.group(group).unwrap().group.clone() };
        let events: Vec<Event> = vec![event(Some(group.number), EventKind::Retried)];
        Job::Fact(FactJob {
            message: id,
            kind: Kind::Hold,
            number: message.next_fact,
            key: Arc::clone(message.key.as_ref().unwrap()),
            fact: Fact { gone: Vec::new(), groups: vec![group], events },
            done: None,
            spill: None,
            withdraws: None,
        })
    }
}

#[test]
fn no_fact_overtakes_an_earlier_one_that_the_disk_did_not_take() {
    let mut lane = lane(64 << 10);
    lane.writer.prepare().unwrap();
    let (job, mut receipt) = lane.message(100);
    let id = job.key.binding.message;
    lane.writer.work(VecDeque::from([Job::Message(job)]));
    receipt.try_recv().unwrap().unwrap();
    // The second does not fit behind the first, whose write fails.
    let jobs = VecDeque::from([lane.hold(id, 0, 30_000), lane.hold(id, 1, 30_000)]);
    lane.disk.fail_call(lane.disk.calls(), io::ErrorKind::Other);
    lane.writer.work(jobs);
    lane.writer.retry_late();
    let state = lane.shared.queue.lock();
    let message = &state.messages[&id];
    assert_eq!((message.facts, message.pending), (2, 0));
    assert!(message.groups.iter().all(|entry| entry.group.held.is_some()), "a hold was lost");
}

#[test]
fn a_refused_commit_leaves_no_spill_file() {
    let mut lane = lane(64 << 10);
    let spilled = |lane: &Lane| lane.disk.list(Folder::Spill).unwrap().len();
    let (job, mut receipt) = lane.message(100_000);
    assert_eq!(spilled(&lane), 1);
    // There is no room for a segment.
    lane.disk.set_capacity(Some(0));
    lane.writer.work(VecDeque::from([Job::Message(job)]));
    assert!(receipt.try_recv().unwrap().is_err());
    assert_eq!(spilled(&lane), 0);
    // Nor does one that comes when the lane is closed.
    lane.disk.set_capacity(None);
    let (job, _receipt) = lane.message(100_000);
    let queue = crate::lane::LaneQueue::new();
    queue.close();
    queue.take(Duration::ZERO);
    assert!(queue.submit(Job::Message(job)).is_err());
    assert_eq!(spilled(&lane), 0);
    // What was written, or may have been, keeps it.
    lane.writer.prepare().unwrap();
    let (job, mut receipt) = lane.message(100_000);
    lane.writer.work(VecDeque::from([Job::Message(job)]));
    receipt.try_recv().unwrap().unwrap();
    let (job, mut receipt) = lane.message(100_000);
    lane.disk.fail_call(lane.disk.calls(), io::ErrorKind::Other);
    lane.writer.work(VecDeque::from([Job::Message(job)]));
    assert!(receipt.try_recv().unwrap().is_err());
    assert_eq!(spilled(&lane), 2);
}
