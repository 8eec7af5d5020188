//! Single questions, and menus.
//!
//! Job: each question that is no page of the wizard, with what it asks the daemon for and how its answer is told; the
//! menus that lead to them. Place: screens of the console. Invariants: what can't be undone is asked about with a word
//! that must be typed. A crash leaves nothing behind.

use super::{
    event::{Effect, Key},
    field::{Field, Halves, Kind, next},
    state::Choice,
};
use crate::{
    Request, Response, Secret,
    machine::MachineAct,
    view::{TestOutcome, TestReport},
};
use zeroize::Zeroizing;

/// The word that a factory reset asks for.
pub const RESET_WORD: &str = "ERASE";

/// Which question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormKind {
    SignIn,
    Unlock,
    Enrol,
    TestMail,
    Update,
    Machine(MachineAct),
}

/// A question.
#[derive(Clone, Debug)]
pub struct Form {
    pub kind: FormKind,
    pub fields: Vec<Field>,
    pub at: usize,
    pub error: Option<Halves>,
}

impl Form {
    pub fn new(kind: FormKind) -> Self {
        let fields = match &kind {
            FormKind::SignIn => vec![Field::text("Name", ""), Field::secret("Password")],
            FormKind::Unlock => vec![Field::text("Recovery key", "all its words, with blanks between them")],
            FormKind::Enrol => vec![Field::text("One-time code", "as the service shows it")],
            FormKind::TestMail => vec![Field::text("Recipient", "you@example.org")],
            FormKind::Update => vec![
                Field::text("Image", "https://updates.example.net/postern.raucb"),
                Field::text("Its SHA-256", "64 hexadecimal digits (empty: not compared)"),
                Field::choice("Restart", &["now", "later"]),
            ],
            FormKind::Machine(MachineAct::FactoryReset) => vec![Field::text("Type the word", RESET_WORD)],
            FormKind::Machine(_) => Vec::new(),
        };
        Self { kind, fields, at: 0, error: None }
    }

    pub fn title(&self) -> &'static str {
        match &self.kind {
            FormKind::SignIn => "Sign in",
            FormKind::Unlock => "Unlock with the recovery key",
            FormKind::Enrol => "Enrol with the cloud service",
            FormKind::TestMail => "Send a test message",
            FormKind::Update => "Update",
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
            FormKind::Machine(MachineAct::SetTime { .. }) => "The clock runs on from the time that is given.",
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
        let value = |at: usize| self.fields.get(at).map(|field| field.value().to_owned()).unwrap_or_default();
        let secret = |at: usize| Secret::new(Zeroizing::new(value(at)));
        if !self.fields.is_empty() && value(0).is_empty() {
            self.error = Some(Halves::new("the field is empty", "fill it in, or go back with Esc"));
            return Vec::new();
        }
        let request = match &self.kind {
            FormKind::SignIn => Request::SignIn { name: value(0), password: secret(1) },
            FormKind::Unlock => Request::KeysUnlock { words: secret(0) },
            FormKind::Enrol => Request::Enrol { code: secret(0) },
            FormKind::TestMail => match value(0).parse() {
                Ok(recipient) => Request::TestMail { recipient },
                Err(_) => {
                    self.error = Some(Halves::new("this is not a mail address", "write one, like you@example.org"));
                    return Vec::new();
                }
            },
            FormKind::Update => {
                let sha256 = Some(value(1)).filter(|digits| !digits.is_empty());
                Request::UpdateInstall { source: value(0), sha256, reboot: value(2) == "now" }
            }
            FormKind::Machine(MachineAct::FactoryReset) if value(0) != RESET_WORD => {
                let remedy = format!("type {RESET_WORD} in capital letters, or go back with Esc");
                self.error = Some(Halves::new("this is not the word; nothing was done", remedy));
                return Vec::new();
            }
            FormKind::Machine(act) => Request::Machine(act.clone()),
        };
        vec![Effect::Ask(request)]
    }
}

impl FormKind {
    /// The answer, as the board tells it.
    pub fn told(&self, response: &Response) -> Option<String> {
        match response {
            Response::Unlocked(unlocked) if unlocked.resealed => {
                Some("Unlocked and sealed anew; the next start needs no recovery key.".to_owned())
            }
            Response::Unlocked(_) => Some("Unlocked until the next start, which will ask again.".to_owned()),
            Response::Enrolled(enrolment) => {
                Some(format!("Enrolled as {} of {}.", enrolment.appliance, enrolment.tenant))
            }
            Response::Tested(report) => Some(tested(report)),
            Response::Update(_) => Some("The image is installed; the next start tries it.".to_owned()),
            Response::Machine { act: MachineAct::PowerOff, .. } => Some("The appliance switches off.".to_owned()),
            Response::Machine { .. } => Some("The appliance starts anew.".to_owned()),
            _ => None,
        }
    }
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

/// Which menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MenuKind {
    Operator,
    Power,
}

/// A list to choose from.
#[derive(Clone, Debug)]
pub struct Menu {
    pub title: &'static str,
    pub items: &'static [(&'static str, Choice)],
    pub at: usize,
}

impl Menu {
    pub fn new(kind: MenuKind) -> Self {
        let (title, items): (_, &[(&str, Choice)]) = match kind {
            MenuKind::Operator => (
                "What do you want to do?",
                &[
                    ("Settings: ask all questions again", Choice::Settings),
                    ("Recovery key: make a new one", Choice::Recovery),
                    ("Enrol with the cloud service", Choice::Enrolment),
                    ("Send a test message", Choice::TestMail),
                    ("Update from a URL", Choice::Update),
                    ("Restart", Choice::Restart),
                    ("Switch off", Choice::PowerOff),
                    ("Sign out", Choice::SignOut),
                ],
            ),
            MenuKind::Power => ("Power", &[("Restart", Choice::Restart), ("Switch off", Choice::PowerOff)]),
        };
        Self { title, items, at: 0 }
    }

    pub fn chosen(&self) -> Option<Choice> {
        self.items.get(self.at).map(|(_, choice)| *choice)
    }

    /// Moves, or chooses by number.
    pub fn key(&mut self, key: Key) -> Option<Choice> {
        match key {
            Key::Char(c) => {
                let at = usize::try_from(c.to_digit(10)?).ok()?.checked_sub(1)?;
                return self.items.get(at).map(|(_, choice)| *choice);
            }
            Key::Tab | Key::Down | Key::Up | Key::BackTab => self.at = next(self.at, self.items.len(), key),
            _ => {}
        }
        None
    }
}
