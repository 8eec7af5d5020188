//! The wizard's pages, drawn.
//!
//! Job: each page with its explanation, its fields and its errors. Place: under the view. Invariants: the words of the
//! recovery key are on the screen on their own page only. A crash leaves nothing behind.

use super::{
    draft::{FIXED, Name},
    field::{Field, Halves},
    form::tested,
    look::{BAD, FAINT, GOOD, LABEL, PLAIN, STRONG, Sheet},
    recovery::Recovery,
    state::State,
    view::error,
    wizard::{ENROLMENT, Page, StepState, Wizard},
};
use crate::{cli::form::time, password, view::TestOutcome};

/// Words beside each other: four columns of six fit on every screen.
const COLUMNS: usize = 4;

/// The keys of the present page.
pub fn keys(wizard: &Wizard) -> String {
    match wizard.page {
        Page::Network => {
            let back = if wizard.first { "status board" } else { "menu" };
            format!("Enter go on   Tab next field   Left/Right choose   Esc {back}")
        }
        Page::Recovery => recovery_keys(&wizard.recovery).to_owned() + "   Esc page before",
        Page::Summary => "Enter apply all this   Esc page before".to_owned(),
        Page::Apply => match wizard.steps.iter().find(|step| matches!(step.state, StepState::Failed(_))) {
            Some(step) if step.what == ENROLMENT => {
                "Enter try again   Tab enrol later   Esc back to the summary".to_owned()
            }
            Some(_) => "Enter try again   Esc back to the summary".to_owned(),
            None => "Esc back to the summary".to_owned(),
        },
        Page::Test => "Enter send   Page Up look at the answers again   Esc finish".to_owned(),
        _ => "Enter go on   Tab next field   Esc page before".to_owned(),
    }
}

pub fn recovery_keys(recovery: &Recovery) -> &'static str {
    match recovery {
        Recovery::Before(_) => "Enter show the words",
        Recovery::Shown(_) => "Enter I have written them down",
        Recovery::Asked { .. } => "Enter next word   Page Up show the words again",
        Recovery::Renew(..) => "Enter make a new key",
        Recovery::FromPaper(..) => "Enter confirm   Ctrl-N make a new key",
        Recovery::Done => "Enter go on",
    }
}

pub fn page(wizard: &Wizard, state: &State, sheet: &mut Sheet<'_>) {
    let pages = wizard.pages();
    let number = pages.iter().position(|page| *page == wizard.page).unwrap_or(0) + 1;
    let (title, text) = heading(wizard.page);
    let kind = if wizard.first { "Set up" } else { "Settings" };
    sheet.line(&format!("{kind} {number}/{}  {title}", pages.len()), STRONG);
    sheet.gap();
    if !text.is_empty() {
        sheet.text(0, text, PLAIN);
        sheet.gap();
    }
    match wizard.page {
        Page::Time => {
            sheet.put(0, "Clock now", PLAIN);
            sheet.put(LABEL, &time(state.now), PLAIN);
            sheet.gap();
            fields(wizard, sheet);
        }
        Page::Administrator => {
            fields(wizard, sheet);
            strength(wizard, sheet);
        }
        Page::Recovery => return recovery(&wizard.recovery, wizard.error.as_ref(), sheet),
        Page::Summary => {
            summary(wizard, sheet);
            meanwhile(wizard, state, sheet);
        }
        Page::Apply => steps(wizard, sheet),
        Page::Test => test(wizard, sheet),
        Page::Network | Page::Mail | Page::Cloud | Page::Enrolment => fields(wizard, sheet),
    }
    error(wizard.error.as_ref(), sheet);
}

fn heading(page: Page) -> (&'static str, &'static str) {
    match page {
        Page::Network => (
            "Name and address",
            "The full name that other mail servers know this appliance by, and its place in the network.",
        ),
        Page::Time => (
            "Time",
            "Servers that tell the time. Without them, mail is dated by the clock of this machine; clear the field (Ctrl-U) \
             to set it here. Where it is wrong by days, certificates count as invalid: set it first then.",
        ),
        Page::Mail => (
            "Mail",
            "Where mail for everybody else goes, and where mail for your own domains. Only the addresses that may hand in \
             mail can send through this appliance: your mail servers.",
        ),
        Page::Cloud => (
            "Cloud service",
            "Confidential mail goes to the secure-messaging service. Without one it waits here until there is.",
        ),
        Page::Administrator => {
            ("Administrator", "Who may operate this appliance from now on. The password is asked for at this console.")
        }
        Page::Recovery => ("Recovery key", ""),
        Page::Enrolment => (
            "Enrolment",
            "The service gives a one-time code for this appliance. It can be entered later, too; confidential mail waits \
             until then.",
        ),
        Page::Summary => ("Summary", ""),
        Page::Apply => ("Applying", ""),
        Page::Test => (
            "Test message",
            "A message of the appliance's own shows whether mail gets through. It goes the way of all mail.",
        ),
    }
}

fn fields(wizard: &Wizard, sheet: &mut Sheet<'_>) {
    for (index, name) in wizard.names().into_iter().enumerate() {
        let field = wizard.draft.field(name);
        sheet.field(field.label, field, index == wizard.at);
    }
}

fn strength(wizard: &Wizard, sheet: &mut Sheet<'_>) {
    let typed = wizard.draft.value(Name::Password);
    sheet.gap();
    if typed.is_empty() && wizard.draft.has_operators() {
        sheet.line("Left empty, the password stays as it is.", FAINT);
        return;
    }
    let strength = password::strength(typed);
    let words = ["too weak", "enough", "good", "strong", "very strong"];
    let word = words.get(usize::from(strength)).copied().unwrap_or_default();
    let bar = "█".repeat(usize::from(strength) * 5) + &"░".repeat(20 - usize::from(strength.min(4)) * 5);
    sheet.put(0, "Strength", PLAIN);
    sheet.put(LABEL, &format!("{bar}  {word}"), if strength == 0 { BAD } else { GOOD });
    sheet.gap();
}

pub fn recovery(recovery: &Recovery, wrong: Option<&Halves>, sheet: &mut Sheet<'_>) {
    match recovery {
        Recovery::Before(_) => {
            sheet.text(
                0,
                "The recovery key opens this appliance when its TPM does not: after a repair, or when its firmware was \
                 tampered with. It is shown once, as words, and never again. Without it, the mail on a broken machine \
                 is lost.",
                PLAIN,
            );
            sheet.gap();
            sheet.text(0, "Have paper and a pen ready, see that nobody looks on, then press Enter.", STRONG);
        }
        Recovery::Shown(words) => {
            sheet.text(0, "Write these words down, with their numbers. Keep the paper away from this machine.", PLAIN);
            sheet.gap();
            table(words.expose(), sheet);
            sheet.gap();
            sheet.text(0, "They are not shown again. Some of them are asked back.", PLAIN);
        }
        Recovery::Asked { positions, fields, at, .. } => {
            sheet.text(0, "Type these words from your paper.", PLAIN);
            sheet.gap();
            for (index, (position, field)) in positions.iter().zip(fields).enumerate() {
                sheet.field(&format!("Word {}", position + 1), field, index == *at);
            }
        }
        Recovery::FromPaper(field, _) => {
            sheet.text(
                0,
                "The recovery key was shown before, and nobody has confirmed it. If you have its words, type all of them. \
                 If not, Ctrl-N makes a new key, after a question.",
                PLAIN,
            );
            sheet.gap();
            sheet.field(field.label, field, true);
        }
        Recovery::Renew(field, operator) => {
            sheet.line("Make a new recovery key?", STRONG);
            sheet.gap();
            sheet.text(
                0,
                "It takes the place of the present one at once: the words on the old paper open nothing any more, also \
                 where this is broken off before the new ones are written down. Mail and settings stay as they are. The \
                 new words are shown once, and some are asked back.",
                PLAIN,
            );
            sheet.gap();
            let who = match operator {
                Some(name) => format!("Have paper and a pen ready. With the password of {name}:"),
                None => "Have paper and a pen ready.".to_owned(),
            };
            sheet.text(0, &who, STRONG);
            sheet.gap();
            sheet.field(field.label, field, true);
        }
        Recovery::Done => sheet.line("The recovery key is confirmed.", GOOD),
    }
    error(wrong, sheet);
}

/// The words with their numbers, down the columns.
fn table(words: &str, sheet: &mut Sheet<'_>) {
    let words: Vec<&str> = words.split_whitespace().collect();
    let rows = words.len().div_ceil(COLUMNS);
    for row in 0..rows {
        for column in 0..COLUMNS {
            let index = column * rows + row;
            if let Some(word) = words.get(index) {
                let x = u16::try_from(column * 19).unwrap_or(0);
                sheet.put(x, &format!("{:>3}", index + 1), STRONG);
                sheet.put(x + 4, word, STRONG);
            }
        }
        sheet.gap();
    }
}

fn summary(wizard: &Wizard, sheet: &mut Sheet<'_>) {
    sheet.text(0, "Nothing of this is in force yet. Press Enter to apply it.", STRONG);
    sheet.gap();
    let value = |name| wizard.draft.value(name);
    let or = |text: &str, empty: &str| if text.is_empty() { empty.to_owned() } else { text.to_owned() };
    let network = if value(Name::Method) == FIXED {
        format!("{}, gateway {}", value(Name::Address), or(value(Name::Gateway), "none"))
    } else {
        value(Name::Method).to_owned()
    };
    let internal = if value(Name::Domains).is_empty() {
        "none".to_owned()
    } else {
        format!("{} at {}", value(Name::Domains), value(Name::Internal))
    };
    let time = or(value(Name::Ntp), "the machine's clock");
    let no_names = if value(Name::Method) == FIXED { "none" } else { "as the network says" };
    for (label, text) in [
        ("Host name", value(Name::Host).to_owned()),
        ("Network", network),
        ("Name servers", or(value(Name::Dns), no_names)),
        ("Time", time),
        ("Next hop", value(Name::NextHop).to_owned()),
        ("Own domains", internal),
        ("Clients", value(Name::Networks).to_owned()),
        ("Cloud", or(value(Name::Cloud), "none; confidential mail waits")),
        ("Operator", value(Name::Operator).to_owned()),
    ] {
        sheet.fact(label, &text, PLAIN);
    }
    if wizard.pages().contains(&Page::Enrolment) {
        let enrol = if value(Name::Code).is_empty() { "later" } else { "with the code that was typed" };
        sheet.fact("Enrolment", enrol, PLAIN);
    }
}

/// Somebody else was quicker.
fn meanwhile(wizard: &Wizard, state: &State, sheet: &mut Sheet<'_>) {
    let in_force = state.status.as_ref().filter(|status| status.facts.set_up).map(|status| status.settings_revision);
    if let Some(in_force) = in_force.filter(|in_force| *in_force != wizard.revision) {
        let what = format!("the settings were changed meanwhile: revision {in_force} is in force");
        let remedy = "applying this takes that back; to keep it, drop what was typed (menu) and begin again";
        error(Some(&Halves::new(what, remedy)), sheet);
    }
}

fn steps(wizard: &Wizard, sheet: &mut Sheet<'_>) {
    for step in &wizard.steps {
        sheet.put(0, step.what, STRONG);
        match &step.state {
            StepState::Waiting => sheet.line_of("not yet", FAINT),
            StepState::Running => sheet.line_of("under way", PLAIN),
            StepState::Done(told) => sheet.line_of(told, GOOD),
            StepState::Failed(halves) => sheet.halves(LABEL, halves),
        }
    }
}

fn test(wizard: &Wizard, sheet: &mut Sheet<'_>) {
    let waiting = wizard.tested == Some(None);
    let recipient: &Field = &wizard.recipient;
    sheet.field(recipient.label, recipient, !waiting);
    sheet.gap();
    match &wizard.tested {
        None => {}
        Some(None) => sheet.text(0, "The message is under way; this takes up to half a minute.", STRONG),
        Some(Some(report)) => {
            let style = if report.outcome == TestOutcome::Delivered { GOOD } else { BAD };
            sheet.text(0, &tested(report), style);
            let next = match report.outcome {
                TestOutcome::Delivered => "Look whether it has arrived, then finish with Esc.",
                TestOutcome::Waiting => {
                    "It stays in the queue and is tried again. If this goes on, Page Up leads back to the next hop."
                }
                TestOutcome::Held | TestOutcome::Refused => {
                    "Page Up leads back to the answers; Enter sends it again, also to somebody else."
                }
            };
            sheet.text(0, next, PLAIN);
        }
    }
}
