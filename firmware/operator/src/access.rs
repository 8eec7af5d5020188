//! Who may ask for what.
//!
//! Job: decide, for each connection, whether a request is carried out: by the peer's user (the kernel's word), or after
//! a sign-in on the same connection. Place: between the server and [`crate::Operator`]. Invariants: root and the
//! daemon's own user may ask for everything; anybody else who reaches the socket stands before the box, and may look,
//! switch it off, reset it and give the recovery key; all else needs an operator's password, except while there is no
//! operator yet, when it may do what setting up needs. One password is checked at a time, wrong ones make the next wait,
//! and an unknown name costs as much as a wrong password. A crash leaves nothing behind: a sign-in ends with its
//! connection.

use crate::{Fault, Refusal, Request, machine::MachineAct};
use std::time::{Duration, Instant};

/// A session in which nobody has asked for anything but the status for so long is over.
const SIGNED_IN: Duration = Duration::from_secs(15 * 60);

/// Wrong passwords on one connection; then it is closed.
pub(crate) const MOST_ATTEMPTS: u32 = 10;

/// Wrong passwords in a row that cost no waiting: people mistype.
const FREE_ATTEMPTS: u32 = 3;

/// Longest wait after wrong passwords: some 1,400 guesses a day, and an operator who can wait for it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Who asks on one connection.
#[derive(Debug)]
pub struct Caller {
    peer: String,
    full: bool,
    session: Option<Session>,
    failed: u32,
}

#[derive(Debug)]
struct Session {
    name: String,
    used: Instant,
}

impl Caller {
    /// The user `peer`; `full`: it is root or the daemon's own.
    #[must_use]
    pub fn new(peer: String, full: bool) -> Self {
        Self { peer, full, session: None, failed: 0 }
    }

    /// The name under which acts are recorded.
    #[must_use]
    pub fn actor(&self) -> String {
        match &self.session {
            Some(session) => format!("{} (signed in through {})", session.name, self.peer),
            None => self.peer.clone(),
        }
    }

    /// Whether the connection has had all the attempts that it gets.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.failed >= MOST_ATTEMPTS
    }

    pub(crate) fn begin(&mut self, name: &str, now: Instant) {
        (self.session, self.failed) = (Some(Session { name: name.to_owned(), used: now }), 0);
    }

    pub(crate) fn fail(&mut self) {
        self.failed += 1;
    }

    /// Ends the session; its name, if there was one.
    pub(crate) fn end(&mut self) -> Option<String> {
        self.session.take().map(|session| session.name)
    }

    /// Whether `request` is carried out now; `setting_up`: there are keys and no operator yet.
    ///
    /// # Errors
    /// [`Fault::SignIn`]
    pub(crate) fn permit(&mut self, request: &Request, setting_up: bool, now: Instant) -> Result<(), Refusal> {
        if self.session.as_ref().is_some_and(|session| now.duration_since(session.used) > SIGNED_IN) {
            self.session = None;
        }
        let need = need(request);
        if let Some(session) = self.session.as_mut().filter(|_| need != Need::Nothing) {
            session.used = now;
        }
        if self.full || self.session.is_some() || need == Need::Nothing || need == Need::SettingUp && setting_up {
            return Ok(());
        }
        Err(Refusal::new(
            Fault::SignIn,
            "this needs an operator's sign-in",
            "sign in with the name and password of an administrator",
        ))
    }
}

/// What must be known of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Standing before the box is enough.
    Nothing,
    /// Enough as well while there is no operator yet.
    SettingUp,
    /// An operator.
    Operator,
}

fn need(request: &Request) -> Need {
    match request {
        // The recovery key is the proof itself, and sign-ins need settings, which a locked appliance can't read.
        Request::Status | Request::KeysStatus | Request::KeysUnlock { .. } => Need::Nothing,
        Request::SignIn { .. } | Request::SignOut => Need::Nothing,
        // Who stands before the box can pull its plug and take its disk out.
        Request::NetworkShow
        | Request::UpdateStatus
        | Request::Machine(MachineAct::Reboot | MachineAct::PowerOff | MachineAct::FactoryReset) => Need::Nothing,
        Request::Machine(MachineAct::SetTime { .. }) => Need::SettingUp,
        Request::SettingsShow
        | Request::SettingsApply { .. }
        | Request::RecoveryShow
        | Request::RecoveryConfirm { .. }
        | Request::RecoveryRenew
        | Request::Enrol { .. }
        | Request::TestMail { .. } => Need::SettingUp,
        Request::QueueList { .. }
        | Request::QueueShow { .. }
        | Request::QueueRetry { .. }
        | Request::QueueHold { .. }
        | Request::QueueRelease { .. }
        | Request::QueueDelete { .. }
        | Request::MessageShow { .. }
        | Request::Health
        | Request::UpdateInstall { .. }
        | Request::UpdateAcknowledge
        | Request::AuditVerify => Need::Operator,
    }
}

/// Wrong passwords of all connections together, so that a new connection is no new chance.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    failures: u32,
    not_before: Option<Instant>,
}

impl Gate {
    /// Whether a password is looked at now.
    ///
    /// # Errors
    /// How long to wait; the same for every name.
    pub fn admit(&self, now: Instant) -> Result<(), Refusal> {
        match self.not_before.map(|at| at.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Err(Refusal::new(
                Fault::Refused,
                "too many sign-ins failed; this one was not looked at",
                format!("wait {} s, then try again", wait.as_secs() + 1),
            )),
            _ => Ok(()),
        }
    }

    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.saturating_sub(FREE_ATTEMPTS);
        let wait = Duration::from_secs(1_u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(LONGEST_WAIT);
        self.not_before = (doublings > 0).then_some(now + wait);
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs_sign_in(caller: &mut Caller, request: &Request, setting_up: bool) -> bool {
        caller.permit(request, setting_up, Instant::now()).is_err_and(|refusal| refusal.fault == Fault::SignIn)
    }

    #[test]
    fn whoever_stands_before_the_box_may_look_and_set_up_only_while_there_is_no_operator() {
        let mut caller = Caller::new("uid 990".into(), false);
        let apply = Request::SettingsApply { text: String::new() };
        let list = Request::QueueList { state: None, destination: None, limit: 1 };
        assert!(!needs_sign_in(&mut caller, &Request::Status, false));
        assert!(!needs_sign_in(&mut caller, &apply, true) && needs_sign_in(&mut caller, &apply, false));
        assert!(needs_sign_in(&mut caller, &list, true) && needs_sign_in(&mut caller, &Request::AuditVerify, true));
        let mut root = Caller::new("root".into(), true);
        assert!(!needs_sign_in(&mut root, &list, false) && !needs_sign_in(&mut root, &apply, false));
    }

    #[test]
    fn a_session_ends_after_idle_time_and_watching_the_status_does_not_keep_it() {
        let start = Instant::now();
        let mut caller = Caller::new("uid 990".into(), false);
        caller.begin("anna", start);
        assert!(caller.actor().starts_with("anna"), "{caller:?}");
        let almost = start + SIGNED_IN - Duration::from_secs(1);
        caller.permit(&Request::Status, false, almost).unwrap();
        let over = start + SIGNED_IN + Duration::from_secs(1);
        assert_eq!(caller.permit(&Request::AuditVerify, false, over).unwrap_err().fault, Fault::SignIn);
        caller.begin("anna", start);
        caller.permit(&Request::AuditVerify, false, almost).unwrap();
        caller.permit(&Request::AuditVerify, false, over).unwrap();
    }

    #[test]
    fn wrong_passwords_make_the_next_wait_ever_longer_up_to_a_minute() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        for _ in 0..FREE_ATTEMPTS {
            gate.admit(start).unwrap();
            gate.failed(start);
        }
        gate.admit(start).unwrap();
        gate.failed(start);
        assert!(gate.admit(start + Duration::from_secs(1)).is_err());
        gate.admit(start + Duration::from_secs(2)).unwrap();
        for _ in 0..200 {
            gate.failed(start);
        }
        assert!(gate.admit(start + Duration::from_secs(59)).is_err());
        gate.admit(start + LONGEST_WAIT).unwrap();
        gate.succeeded();
        gate.admit(start).unwrap();
    }
}
