//! Whether the appliance does what it is for.
//!
//! Job: send two messages of its own on the way of all mail, over a real SMTP session, through the judge and its workers,
//! into the spool and out of it by the relay client and the cloud client, and say of each step what came of it. Place:
//! asked for by operators, and by the unit that decides about a new image. Invariants: nothing leaves to a next hop or a
//! recipient; no counter and no log line of mail counts a probe; a full disk, a crowd or a service that is away is
//! reported and is no failure, except while the image is on trial: then both messages must come through, and only a cloud
//! service that was away before the update already is no failure; one check at a time, with a bound for each step. A crash
//! leaves what [`probe`] says.
//!
//! ```text
//! session ──SMTP──▶ intake ─▶ judge (fixed policy, real detectors, real workers) ─▶ spool
//!    sink ◀──SMTP── relay client ◀── ordinary ─┐                                     │
//!   cloud service ◀─mTLS─ GET ◀── confidential ─┴──────────────── claim ◀────────────┘
//! ```

mod message;
pub mod probe;
mod session;
mod sink;
pub mod trial;

use crate::{build::Open, daemon::Daemon, updates};
use delivery::ProbeError;
use mail::PROBE_DOMAIN;
use operator::{
    Alarm, Closed,
    health::{HealthCheck, HealthReport, HealthState},
};
use probe::{Ended, Fault, IN_ATTACHMENT, IN_TEXT, Kind, Run};
use session::Session;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

/// From the receipt to the settled delivery: a TPM may take a minute and a half to sign for the cloud.
const DELIVERY: Duration = Duration::from_secs(120);
/// What follows intake, where there is none.
const BEHIND_INTAKE: [&str; 5] = ["judge", "workers", "spool", "relay", "cloud"];

/// In the data folder while the last update was begun with the cloud service away.
const AWAY: &str = "cloud-away";

/// The last check, and the right to make the next one.
#[derive(Default)]
pub struct Last {
    checking: tokio::sync::Mutex<()>,
    report: Mutex<Option<HealthReport>>,
}

impl Last {
    /// The alarm of a check that failed; until one passes.
    #[must_use]
    pub fn alarm(&self) -> Option<Alarm> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let report = report.as_ref()?;
        let HealthCheck { name, what, remedy, .. } = report.failure()?;
        let what = format!("the health check failed: {name}: {what}");
        Some(Alarm { what, remedy: remedy.clone(), since: report.at })
    }
}

/// Checks everything once; another check that is under way is waited for.
pub async fn check(daemon: &Daemon) -> HealthReport {
    let _one_at_a_time = daemon.health.checking.lock().await;
    let report = check_now(daemon).await;
    let before = daemon.health.report.lock().unwrap_or_else(PoisonError::into_inner).replace(report.clone());
    match report.failure() {
        None => log::info!(event = "healthy"; "the health check passed"),
        // Whoever waits for a healthy box asks every few seconds: the same answer is said once.
        failure if before.as_ref().and_then(HealthReport::failure) == failure => {}
        Some(failed) => {
            let (check, what) = (failed.name.as_str(), failed.what.as_str());
            log::error!(event = "unhealthy", check, what; "the health check failed");
        }
    }
    report
}

/// Notes for the image that is about to be tried what it can't know: whether the cloud service was away before it.
pub async fn note_before_update(daemon: &Daemon) {
    let report = check(daemon).await;
    let away = report.checks.iter().any(|check| check.name == "cloud" && check.state == HealthState::Outside);
    let note = daemon.arguments.data.join(AWAY);
    let noted = if away { std::fs::write(&note, "") } else { std::fs::remove_file(&note) };
    if let Err(error) = noted
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::error!(error:%; "whether the cloud service is away is not noted; a trial may fail for it");
    }
}

/// What counts while an image is on trial: it must show that mail flows. Something that a defect of its own would look like
/// proves nothing: a full disk or a crowd can be told from it at the next try, or by the image before.
fn on_trial(check: HealthCheck, away_before: bool) -> HealthCheck {
    if check.state != HealthState::Outside || check.name == "cloud" && away_before {
        return check;
    }
    let what = format!("{}, and this image has not shown yet that it can", check.what);
    HealthCheck { state: HealthState::Failed, what, ..check }
}

async fn check_now(daemon: &Daemon) -> HealthReport {
    let mut checks = Vec::new();
    match daemon.open() {
        Ok(open) => {
            checks.push(keys(daemon));
            let listener = daemon.now().listening.first().copied();
            match listener {
                Some(listener) => checks.extend(way_of_a_message(&open, listener).await),
                None => {
                    let text = "there is no SMTP listener; set intake.listen, and look at the daemon's log";
                    checks.push(HealthCheck::told("intake", HealthState::Failed, text));
                    checks.extend(skipped("no message can be handed in"));
                }
            }
        }
        Err(Closed::Locked(locked)) => {
            let text = format!("{}; {}", locked.what, locked.remedy);
            let name = if daemon.now().data_locked.is_some() { "data" } else { "keys" };
            checks.push(HealthCheck::told(name, HealthState::Failed, &text));
            checks.push(refuses(daemon).await);
            checks.extend(skipped("the appliance is locked"));
        }
        Err(Closed::Starting) => {
            let text = "the daemon is starting; try again in a moment";
            checks.push(HealthCheck::told("keys", HealthState::Failed, text));
            checks.extend(skipped("the daemon is starting"));
        }
        Err(Closed::NotSetUp) => {
            checks.push(keys(daemon));
            checks.push(refuses(daemon).await);
            checks.extend(skipped("the appliance is not set up yet"));
        }
    }
    if daemon.helper.is_some() && updates::on_trial() {
        let away_before = daemon.arguments.data.join(AWAY).exists();
        checks = checks.into_iter().map(|check| on_trial(check, away_before)).collect();
    }
    HealthReport::new(checks)
}

fn skipped(why: &str) -> impl Iterator<Item = HealthCheck> {
    BEHIND_INTAKE.into_iter().map(move |name| HealthCheck::skipped(name, why))
}

fn keys(daemon: &Daemon) -> HealthCheck {
    let status = daemon.vault.status();
    if status.state == vault::State::Unlocked {
        HealthCheck::passed("keys", "the TPM has released them")
    } else {
        let text = "the keys were opened by hand and will not open at the next start; look at `postern keys status`";
        HealthCheck::told("keys", HealthState::Failed, text)
    }
}

/// A closed appliance must still answer, and say that mail is to be sent again later.
async fn refuses(daemon: &Daemon) -> HealthCheck {
    let Some(listener) = daemon.now().listening.first().copied() else {
        return HealthCheck::skipped("intake", "no listener is known before the appliance is set up");
    };
    let asked = async {
        let mut session = Session::open(listener, |_| ()).await?;
        session.command("EHLO", &format!("EHLO {PROBE_DOMAIN}"), 250).await?;
        session.command("MAIL", &format!("MAIL FROM:<probe@{PROBE_DOMAIN}>"), 451).await?;
        session.quit().await;
        Ok(())
    };
    match asked.await {
        Ok(()) => HealthCheck::passed("intake", format!("{listener} answers 451, as it must while closed")),
        Err(fault) => intake_failed(listener, fault),
    }
}

/// Both messages, and what each step made of them.
async fn way_of_a_message(open: &Open, listener: SocketAddr) -> Vec<HealthCheck> {
    let failed = |name: &str, text: &str| {
        vec![
            HealthCheck::told(name, HealthState::Failed, text),
            HealthCheck::skipped("intake", "an earlier step failed"),
        ]
    };
    let sink = match TcpListener::bind("127.0.0.1:0").await.and_then(|sink| Ok((sink.local_addr()?, sink))) {
        Ok(sink) => sink,
        Err(error) => return failed("relay", &format!("no socket on 127.0.0.1 ({error}); restart the box")),
    };
    let pipeline = &open.pipeline;
    let (run, mut told) = match Run::new(&pipeline.live.parts(), sink.0) {
        Ok(run) => run,
        Err(error) => return failed("judge", &error.to_string()),
    };
    let _under_way = pipeline.probes.begin(run.clone());
    let received = tokio::spawn(sink::receive(sink.1));
    let mut ended = HashMap::new();
    let mut handed_in = Ok(());
    for kind in [Kind::Ordinary, Kind::Confidential] {
        handed_in = hand_in(listener, &run, kind).await;
        if handed_in.is_err() {
            break;
        }
        if let Some(end) = end_of(kind, &mut told).await {
            ended.insert(kind, end);
        }
    }
    received.abort();
    let text = received.await.ok().and_then(Result::ok);
    run.parts.relay.close().await;

    let mut checks = Vec::new();
    let intake_passed = || HealthCheck::passed("intake", format!("{listener} takes messages"));
    let spool_passed = || HealthCheck::passed("spool", "messages are kept, given back and let go");
    let mut spool = match handed_in {
        Ok(()) => {
            checks.push(intake_passed());
            spool_passed()
        }
        // Behind DATA the session has done its part: what refused is judge or spool.
        Err(session::Fault::Refused { verb: "the message", answer }) => {
            checks.push(intake_passed());
            let state = if answer.is_full() { HealthState::Outside } else { HealthState::Failed };
            let said = answer.text.replace("; ", ", ");
            let text = format!("a message was not kept ({} {said}); look at `postern status`", answer.code);
            HealthCheck::told("spool", state, &text)
        }
        Err(fault) => {
            checks.push(intake_failed(listener, fault));
            checks.extend(skipped("no message was taken"));
            return checks;
        }
    };
    if let Some(trouble) = trouble_in_spool(&ended) {
        spool = HealthCheck::told("spool", HealthState::Failed, &trouble);
    }
    checks.extend(judging(&run));
    let kept = spool.state == HealthState::Passed;
    checks.push(spool);
    let wanted = |kind| ended.get(&kind).map(|end: &Ended| &end.sent);
    checks.push(relay(wanted(Kind::Ordinary), text.as_deref(), &run, kept));
    checks.push(cloud(wanted(Kind::Confidential), open, kept));
    checks
}

async fn hand_in(listener: SocketAddr, run: &Run, kind: Kind) -> Result<(), session::Fault> {
    let mut session = Session::open(listener, |from| run.will_connect_from(from)).await?;
    let sender = run.sender();
    session.command("EHLO", &format!("EHLO {PROBE_DOMAIN}"), 250).await?;
    session.command("MAIL", &format!("MAIL FROM:<{sender}>"), 250).await?;
    session.command("RCPT", &format!("RCPT TO:<{}@{PROBE_DOMAIN}>", kind.name()), 250).await?;
    session.command("DATA", "DATA", 354).await?;
    session.content(&message::text(kind, &sender)).await?;
    session.quit().await;
    Ok(())
}

async fn end_of(kind: Kind, told: &mut mpsc::UnboundedReceiver<Ended>) -> Option<Ended> {
    timeout(DELIVERY, async {
        loop {
            match told.recv().await {
                Some(ended) if ended.kind == kind => return Some(ended),
                Some(_) => {}
                None => return None,
            }
        }
    })
    .await
    .ok()
    .flatten()
}

fn intake_failed(listener: SocketAddr, fault: session::Fault) -> HealthCheck {
    match fault {
        session::Fault::Lost(error) => {
            let text = format!("no mail can be handed in at {listener}: {error}; look at the daemon's log");
            HealthCheck::told("intake", HealthState::Failed, &text)
        }
        session::Fault::Refused { verb, answer } => {
            let state = if answer.is_full() { HealthState::Outside } else { HealthState::Failed };
            let said = format!("{} {}", answer.code, answer.text).replace("; ", ", ");
            let text = format!("{listener} answers {verb} with {said:?}; look at `postern status`");
            HealthCheck::told("intake", state, &text)
        }
    }
}

/// What the spool did not do, told in two halves.
fn trouble_in_spool(ended: &HashMap<Kind, Ended>) -> Option<String> {
    ended.values().find_map(|end| {
        let what = match (&end.sent, &end.settled) {
            (Err(Fault::Unreadable(error)), _) => format!("a message can't be read again: {error}"),
            (_, Err(error)) => format!("an outcome is not recorded: {error}"),
            _ => return None,
        };
        Some(format!("{}; check the data disk", what.replace("; ", ", ")))
    })
}

/// Two steps: what is judged by the daemon itself, and what by its workers.
fn judging(run: &Run) -> [HealthCheck; 2] {
    let (Some((ordinary, relayed)), Some((confidential, secured))) =
        (run.judged(Kind::Ordinary), run.judged(Kind::Confidential))
    else {
        return ["judge", "workers"].map(|name| HealthCheck::skipped(name, "not both messages came so far"));
    };
    let found = |detector: &str| confidential.findings.iter().any(|finding| finding.detector == detector);
    let undecided = confidential.undecidable.as_deref().or(ordinary.undecidable.as_deref());
    let judge = if found(IN_TEXT) && relayed && ordinary.findings.is_empty() {
        HealthCheck::passed("judge", "a planted number was found, and nothing where nothing was")
    } else {
        let text = "the detectors do not find what is there; install the image again, and report this";
        HealthCheck::told("judge", HealthState::Failed, text)
    };
    let workers = if found(IN_ATTACHMENT) && secured && undecided.is_none() {
        HealthCheck::passed("workers", "a planted number in an attachment was found")
    } else {
        let why = undecided.unwrap_or("what is planted in an attachment was not found").replace("; ", ", ");
        let text = format!("judging processes do not work: {why}; look at the daemon's log");
        HealthCheck::told("workers", HealthState::Failed, &text)
    };
    [judge, workers]
}

fn relay(sent: Option<&Result<(), Fault>>, received: Option<&str>, run: &Run, kept: bool) -> HealthCheck {
    let failed = |why: &str| {
        let text = format!("the relay client does not deliver: {}; look at the daemon's log", why.replace("; ", ", "));
        HealthCheck::told("relay", HealthState::Failed, &text)
    };
    match sent {
        Some(Ok(())) => match received {
            Some(text) if text.starts_with("Received: ") && text.contains(&run.sender()) => {
                HealthCheck::passed("relay", "the ordinary message arrived at a next hop of the check's own")
            }
            _ => failed("what arrived is not what was sent"),
        },
        Some(Err(Fault::Relay(reply))) => failed(reply),
        Some(Err(Fault::Unreadable(_) | Fault::Cloud(_))) => {
            HealthCheck::skipped("relay", "the message was not given back")
        }
        None if kept => failed("the message was not taken out of the queue in time"),
        None => HealthCheck::skipped("relay", "no message was kept"),
    }
}

fn cloud(sent: Option<&Result<(), Fault>>, open: &Open, kept: bool) -> HealthCheck {
    let configured = open.pipeline.live.parts().settings.cloud.is_some();
    match sent {
        _ if !configured => HealthCheck::skipped("cloud", "no cloud service is configured"),
        Some(Ok(())) => HealthCheck::passed("cloud", "the service knows this appliance by its device key"),
        Some(Err(Fault::Cloud(ProbeError::NotEnrolled(why)))) => match open.identity.state() {
            // An enrolment that was kept and can't be used is a broken identity.
            vault::IdentityState::Enrolled => HealthCheck::told("cloud", HealthState::Failed, why),
            vault::IdentityState::Unavailable(fault) => {
                HealthCheck::told("cloud", HealthState::Failed, &fault.to_string())
            }
            vault::IdentityState::NeedsEnrolment => HealthCheck::skipped("cloud", "this appliance is not enrolled"),
        },
        Some(Err(Fault::Cloud(ProbeError::Away(why)))) => HealthCheck::told("cloud", HealthState::Outside, why),
        Some(Err(Fault::Cloud(ProbeError::Identity(why)))) => HealthCheck::told("cloud", HealthState::Failed, why),
        Some(Err(Fault::Unreadable(_) | Fault::Relay(_))) => {
            HealthCheck::skipped("cloud", "the message was not given back")
        }
        None if kept => {
            let text = "no word of the cloud client in time; look at `postern status`";
            HealthCheck::told("cloud", HealthState::Outside, text)
        }
        None => HealthCheck::skipped("cloud", "no message was kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::{session::Answer, *};

    #[test]
    fn an_image_on_trial_that_refuses_every_message_for_now_has_shown_nothing() {
        let listener = "192.0.2.1:25".parse().unwrap();
        for (code, text) in [(421, "4.3.2 too many"), (452, "4.3.1 no storage"), (451, "4.3.2 too much to do")] {
            let answer = Answer { code, text: text.to_owned() };
            let check = intake_failed(listener, session::Fault::Refused { verb: "MAIL", answer });
            assert!(HealthReport::new(vec![check.clone()]).healthy, "the image that stays is not to blame");
            let report = HealthReport::new(vec![on_trial(check, true)]);
            assert!(!report.healthy && !report.failure().unwrap().remedy.is_empty(), "{report:?}");
        }
    }

    #[test]
    fn a_cloud_service_that_was_away_before_the_update_is_not_the_new_images_fault() {
        let away = HealthCheck::told("cloud", HealthState::Outside, "the service does not answer; wait");
        assert!(HealthReport::new(vec![on_trial(away.clone(), true)]).healthy);
        assert!(!HealthReport::new(vec![on_trial(away, false)]).healthy);
        for fine in [HealthCheck::passed("cloud", "known"), HealthCheck::skipped("cloud", "not enrolled")] {
            assert_eq!(on_trial(fine.clone(), false), fine);
        }
    }
}
