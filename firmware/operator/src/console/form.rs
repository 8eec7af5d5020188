//! Single questions.
//!
//! Job: each question that is no page of the wizard, with what it asks the daemon for and how its answer is told. Place:
//! screens of the console. Invariants: what can't be undone is asked about with a word that must be typed. A crash leaves
//! nothing behind.

use super::{
    event::{Effect, Key},
    field::{Field, Halves, Kind, next},
    state::Told,
    wizard::clock,
};
use crate::{
    Refusal, Request, Response, Secret, Unlocked,
    cli::form::time,
    machine::MachineAct,
    view::{TestOutcome, TestReport},
};
use zeroize::Zeroizing;

/// The word that a factory reset asks for.
pub const RESET_WORD: &str = "ERASE";
const RESET_WORD_HINT: &str = "(ERASE)";

/// Which question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormKind {
    SignIn,
    Unlock,
    Enrol,
    TestMail,
    Acknowledge,
    Update,
    Clock,
    Machine(MachineAct),
}

/// A question.
#[derive(Clone, Debug)]
pub struct Form {
    pub kind: FormKind,
    pub fields: Vec<Field>,
    pub at: usize,
    pub error: Option<Halves>,
    /// What it is about, where that is known only now.
    pub subject: Vec<Halves>,
    /// The result of the last answer, where one may ask again.
    pub told: Option<Told>,
}

impl Form {
    pub fn new(kind: FormKind) -> Self {
        let fields = match &kind {
            FormKind::SignIn => vec![Field::text("Name", ""), Field::secret("Password")],
            FormKind::Unlock => vec![Field::text("Recovery key", "(all its words, with blanks between them)")],
            FormKind::Enrol => vec![Field::text("One-time code", "(as the service shows it)")],
            FormKind::TestMail => vec![Field::text("Recipient", "you@example.org")],
            FormKind::Update => vec![
                Field::text("Image", "https://updates.example.net/postern.raucb"),
                Field::text("Its SHA-256", "(64 hexadecimal digits; empty: not compared)"),
                Field::choice("Restart", &["now", "later"]),
            ],
            FormKind::Machine(MachineAct::FactoryReset) => vec![Field::text("Type the word", RESET_WORD_HINT)],
            FormKind::Clock => vec![Field::text("Clock (UTC)", "2026-02-03 04:05")],
            FormKind::Machine(_) | FormKind::Acknowledge => Vec::new(),
        };
        Self { kind, fields, at: 0, error: None, subject: Vec::new(), told: None }
    }

    pub fn title(&self) -> &'static str {
        match &self.kind {
            FormKind::SignIn => "Sign in",
            FormKind::Unlock => "Unlock with the recovery key",
            FormKind::Enrol => "Enrol with the cloud service",
            FormKind::TestMail => "Send a test message",
            FormKind::Acknowledge => "Take note of a slot that did not stay",
            FormKind::Update => "Update",
            FormKind::Clock => "Set the clock",
            FormKind::Machine(MachineAct::Reboot) => "Restart the appliance",
            FormKind::Machine(MachineAct::PowerOff) => "Switch the appliance off",
            FormKind::Machine(MachineAct::FactoryReset) => "Factory reset",
            FormKind::Machine(MachineAct::SetTime { .. }) => "Set the clock",
        }
    }

    /// What must be known before it is answered.
    pub fn explanation(&self) -> &'static str {
        match &self.kind {
            FormKind::SignIn => "With the name and password of an administrator.",
            FormKind::Unlock => {
                "Type the words of the recovery key as they stand on your paper. They open the keys of this appliance; \
                 the queue is untouched until then."
            }
            FormKind::Enrol => {
                "The cloud service gives a one-time code for this appliance. Until it is enrolled, confidential mail \
                 waits here."
            }
            FormKind::TestMail => {
                "A message of the appliance's own goes the way of all mail. It takes up to half a minute."
            }
            FormKind::Update => {
                "The image is fetched, its signature is checked, and it is written beside the one that runs. The next \
                 start tries it; where mail does not flow with it, the present one comes back by itself. Fetching may \
                 take many minutes."
            }
            FormKind::Acknowledge => "The other slot runs in its place. Noted, this is no alarm any more.",
            FormKind::Clock => {
                "It runs on from the time that is given, in UTC. Where time servers are set and can be reached, they \
                 correct it again."
            }
            FormKind::Machine(MachineAct::Reboot) => {
                "What is under way is finished, then the machine starts anew. Mail in the queue stays there."
            }
            FormKind::Machine(MachineAct::PowerOff) => {
                "What is under way is finished, then the machine switches off. Mail in the queue stays there."
            }
            FormKind::Machine(MachineAct::FactoryReset) => {
                "All mail in the queue, all keys and all settings are destroyed and can't be brought back, not even \
                 with the recovery key. Then the machine starts as new."
            }
            FormKind::Machine(MachineAct::SetTime { .. }) => "",
        }
    }

    /// Secrets are typed anew after a refusal.
    pub fn clear_secrets(&mut self) {
        for (index, field) in self.fields.iter_mut().enumerate() {
            if field.kind == Kind::Secret {
                field.set("");
                self.at = index;
            }
        }
    }

    pub fn key(&mut self, key: Key) -> Vec<Effect> {
        let last = self.at + 1 >= self.fields.len();
        match key {
            Key::Enter if last => return self.submit(),
            key => {
                if self.fields.get_mut(self.at).is_some_and(|field| field.take(key)) {
                    self.error = None;
                } else if matches!(key, Key::Enter | Key::Tab | Key::Down | Key::Up | Key::BackTab) {
                    self.at = next(self.at, self.fields.len(), key);
                }
            }
        }
        Vec::new()
    }

    fn submit(&mut self) -> Vec<Effect> {
        let value = |at: usize| self.fields.get(at).map_or("", Field::value);
        let secret = |at: usize| Secret::new(Zeroizing::new(value(at).to_owned()));
        let wrong = |what: &str, remedy: &str| Err(Halves::new(what, remedy));
        let request = if !self.fields.is_empty() && value(0).is_empty() {
            wrong("the field is empty", "fill it in, or go back with Esc")
        } else {
            match &self.kind {
                FormKind::SignIn => Ok(Request::SignIn { name: value(0).to_owned(), password: secret(1) }),
                FormKind::Unlock => Ok(Request::KeysUnlock { words: secret(0) }),
                FormKind::Enrol => Ok(Request::Enrol { code: secret(0) }),
                FormKind::TestMail => match value(0).parse() {
                    Ok(recipient) => Ok(Request::TestMail { recipient }),
                    Err(_) => wrong("this is not a mail address", "write one, like you@example.org"),
                },
                FormKind::Acknowledge => Ok(Request::UpdateAcknowledge),
                FormKind::Update => {
                    let sha256 = Some(value(1).to_owned()).filter(|digits| !digits.is_empty());
                    Ok(Request::UpdateInstall { source: value(0).to_owned(), sha256, reboot: value(2) == "now" })
                }
                FormKind::Clock => match clock(value(0)) {
                    Some(at) => Ok(Request::Machine(MachineAct::SetTime { at })),
                    None => wrong("this is not a time", "write it as 2026-02-03 04:05, in UTC"),
                },
                FormKind::Machine(MachineAct::FactoryReset) if value(0) != RESET_WORD => wrong(
                    "this is not the word; nothing was done",
                    &format!("type {RESET_WORD} in capital letters, or go back with Esc"),
                ),
                FormKind::Machine(act) => Ok(Request::Machine(act.clone())),
            }
        };
        self.told = None;
        match request {
            Ok(request) => {
                self.error = None;
                vec![Effect::ask(request)]
            }
            Err(halves) => {
                self.error = Some(halves);
                Vec::new()
            }
        }
    }
}

impl FormKind {
    /// The answer, as the board tells it.
    pub fn told(&self, response: &Response) -> Option<Told> {
        Some(match response {
            Response::Unlocked(unlocked) => unlocked_to(unlocked),
            Response::Enrolled(enrolment) => {
                Told::good(format!("Enrolled as {} of {}.", enrolment.appliance, enrolment.tenant))
            }
            Response::Tested(report) => Told { text: tested(report), good: report.outcome == TestOutcome::Delivered },
            Response::Update(_) => Told::good("The image is installed; the next start tries it."),
            Response::UpdateAcknowledged => Told::good("Noted."),
            Response::Machine { act, unrecorded } => {
                let done = match act {
                    MachineAct::PowerOff => "The appliance switches off.".to_owned(),
                    MachineAct::SetTime { at } => format!("The clock was set to {}.", time(*at)),
                    MachineAct::Reboot | MachineAct::FactoryReset => "The appliance starts anew.".to_owned(),
                };
                recorded(done, unrecorded.as_ref())
            }
            Response::SignedIn { unrecorded: Some(unrecorded), .. } => {
                recorded("Signed in.".to_owned(), Some(unrecorded))
            }
            _ => return None,
        })
    }
}

/// What was done; and why the audit chain does not have it, where it could not be written.
fn recorded(done: String, unrecorded: Option<&Refusal>) -> Told {
    match unrecorded {
        None => Told::good(done),
        Some(why) => Told::bad(format!("{done} It could not be recorded: {}; {}", why.what, why.remedy)),
    }
}

fn unlocked_to(unlocked: &Unlocked) -> Told {
    let mut text = if unlocked.resealed {
        "Unlocked and sealed anew; the next start needs no recovery key.".to_owned()
    } else {
        "Unlocked until the next start, which will ask again.".to_owned()
    };
    if unlocked.enrol_again {
        text.push_str(" This is another TPM: enrol with the cloud service again (menu); confidential mail waits.");
    }
    // Where nothing was sealed, an alarm on the board says why.
    if unlocked.resealed && !unlocked.advice.is_empty() {
        text = format!("{text} But {}", unlocked.advice);
    }
    Told { text, good: unlocked.resealed && !unlocked.enrol_again && unlocked.advice.is_empty() }
}

/// A test's result in one sentence.
pub fn tested(report: &TestReport) -> String {
    let became = match report.outcome {
        TestOutcome::Delivered => "The test message was taken by the next hop",
        TestOutcome::Waiting if report.detail.is_empty() => "The test message is still under way",
        TestOutcome::Waiting => "Not taken yet, and tried again later",
        TestOutcome::Held => "The test message is held",
        TestOutcome::Refused => "The test message was refused for good",
    };
    if report.detail.is_empty() { format!("{became}.") } else { format!("{became}: {}", report.detail) }
}
