//! Events: one log line each, `event=NAME key=value …`, for whoever follows the service.
//!
//! Job: name what happened to a message. Place: the log. Invariants: Postern ID, group and tenant only; never an
//! address, a subject, a name of a person or a file. A crash leaves the lines that were written.

/// A message is stored and acknowledged.
pub fn secured(id: &str, group: u32, tenant: &str, recipients: usize) {
    log::info!("event=secured id={id} group={group} tenant={tenant} recipients={recipients}");
}

/// The notice for one recipient was taken by the mail server.
pub fn notified(id: &str, group: u32, tenant: &str) {
    log::info!("event=notified id={id} group={group} tenant={tenant}");
}

/// The notice for one recipient will not be sent any more.
pub fn notice_failed(id: &str, group: u32, tenant: &str, status: &str) {
    log::error!("event=notice_failed id={id} group={group} tenant={tenant} status=\"{status}\"");
}

/// A recipient opened the message for the first time.
pub fn read(id: &str, group: u32, tenant: &str) {
    log::info!("event=read id={id} group={group} tenant={tenant}");
}

/// A recipient fetched an attachment.
pub fn fetched(id: &str, group: u32, tenant: &str, attachment: usize) {
    log::info!("event=fetched id={id} group={group} tenant={tenant} attachment={attachment}");
}

/// An appliance was enrolled.
pub fn enrolled(appliance: &str, tenant: &str) {
    log::info!("event=enrolled appliance={appliance} tenant={tenant}");
}
