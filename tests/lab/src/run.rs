//! `make run`: the system in the foreground.
//!
//! Job: start everything, say where everything is, print one line per event, stop on Ctrl-C. Place: around the whole
//! system. Invariants: what is printed comes from the parts' own logs. A crash leaves the lab folder; the next run
//! continues with it.

#![expect(clippy::print_stdout, reason = "the lab talks to the person at the terminal")]

use crate::{
    events::{Event, Follower},
    layout::Layout,
    system::{Options, System},
};
use std::{io, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the lab until SIGINT or SIGTERM.
///
/// # Errors
/// A part does not start or stop.
pub fn run(layout: Layout) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Signals are caught before anything is started, so that Ctrl-C during the start stops what is there.
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    println!("starting the lab in {} …", layout.dir().display());
    let mut logs =
        [Follower::at_end(&layout.path("log/appliance.log"))?, Follower::at_end(&layout.path("log/cloud.log"))?];
    let mut system = System::start(layout, Options::default())?;
    print!("{}", introduction(&system));
    let ended = runtime.block_on(async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = tick.tick() => {}
            }
            let [appliance, cloud] = &mut logs;
            // Both ends of a secured delivery log it; the appliance's word is the one that counts.
            let stored = |event: &Event| event.name != "secured";
            for event in appliance.poll()?.into_iter().chain(cloud.poll()?.into_iter().filter(stored)) {
                println!("{}", describe(&event));
            }
            if let Some(appliance) = system.appliance()
                && let Some(status) = appliance.ended()?
            {
                return Err(io::Error::other(format!("the appliance ended ({status}); see log/appliance.log")));
            }
        }
    });
    println!("\nstopping …");
    system.stop()?;
    println!("stopped; `make run` continues with the same data");
    ended
}

fn introduction(system: &System) -> String {
    let layout = &system.layout;
    let rows = [
        ("SMTP intake", layout.smtp().to_string(), "hand mail in here, as the organisation's mail server"),
        (
            "portal",
            format!("https://{}", layout.portal()),
            "recipients read here; accounts are made from a notice's link",
        ),
        ("cloud API", format!("https://{}", layout.cloud_api()), "appliance to cloud, mutual TLS"),
        ("next hop", layout.sink().to_string(), "a sink; its mail is in sink/next-hop/new"),
        ("internal mail", layout.internal().to_string(), "a sink for clinic.example; sink/internal/new"),
        ("operator", format!("--socket {}", layout.socket().display()), "for the postern command"),
        ("recovery key", layout.path("recovery-key.txt").display().to_string(), "kept by the lab's operator"),
        ("settings", layout.path("settings.toml").display().to_string(), "applied with `postern settings apply`"),
        ("logs", layout.path("log").display().to_string(), "one file for each part"),
    ];
    let widths = (rows.iter().map(|r| r.0.len()).max().unwrap_or(0), rows.iter().map(|r| r.1.len()).max().unwrap_or(0));
    let mut text = String::from("\n");
    for (what, place, remark) in &rows {
        text.push_str(&format!("  {what:<0$}  {place:<1$}  {remark}\n", widths.0, widths.1));
    }
    text.push_str(&format!(
        "\n  try:  swaks --server {} --from anna@clinic.example --to bob@partner.example --body 'At noon?'\n  \
         try:  swaks --server {0} --from anna@clinic.example --to bob@partner.example --body 'SSN 536-22-8145'\n\n  \
         what happens to each message follows; Ctrl-C stops the lab\n\n",
        layout.smtp()
    ));
    text
}

/// `accepted  01J…  from a***@clinic.example, 812 octets`
fn describe(event: &Event) -> String {
    let field = |name: &str| event.fields.get(name).map_or("", String::as_str);
    let detail = event
        .fields
        .iter()
        .filter(|(key, _)| *key != "id")
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join("  ");
    let now = jiff::Zoned::now();
    format!("{}  {:<10} {:<26}  {detail}", now.strftime("%H:%M:%S"), event.name, field("id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_becomes_one_line() {
        let event = Event::parse("x event=relayed id=01AB destination=smarthost reply=250").unwrap();
        let line = describe(&event);
        assert!(line.contains("relayed    01AB") && line.ends_with("destination=smarthost  reply=250"), "{line}");
    }
}
