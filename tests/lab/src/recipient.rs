//! A recipient of confidential mail, with curl for a browser.
//!
//! Job: find the notice, follow its link, choose a password, read, download. Place: at the end of the message's way.
//! Invariants: certificates are checked against the service's own CA; only what a browser would send is sent. A crash
//! leaves a cookie file in a temporary folder.

use crate::{layout::Layout, system::maildir};
use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// A password as people choose them, long enough for the portal.
const PASSWORD: &str = "a few words in a row";

/// One recipient at the portal.
pub struct Recipient {
    portal: String,
    ca: PathBuf,
    folder: tempfile::TempDir,
}

/// A message as the portal shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The page.
    pub page: String,
    /// Paths of its attachments.
    pub attachments: Vec<String>,
}

impl Recipient {
    /// A browser without cookies.
    ///
    /// # Errors
    /// No temporary folder.
    pub fn new(layout: &Layout) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { portal: format!("https://{}", layout.portal()), ca: layout.path("cloud/ca.pem"), folder })
    }

    /// Follows a notice's link and registers, or signs in where this mailbox has a password already.
    ///
    /// # Errors
    /// The portal does not let us in.
    pub fn open(&self, link: &str) -> io::Result<()> {
        let page = self.page(link)?;
        let form = form_token(&page).ok_or_else(|| other("the link's page has no form", &page))?;
        let fields = if page.contains("/register\"") {
            vec![("form", form.as_str()), ("password", PASSWORD), ("again", PASSWORD)]
        } else {
            vec![("form", form.as_str()), ("password", PASSWORD)]
        };
        let action = if fields.len() == 3 { "register" } else { "signin" };
        let answer = self.post(&format!("{link}/{action}"), &fields)?;
        if answer.contains("class=\"error\"") || !answer.contains("class=\"card message\"") {
            return Err(other("the portal does not show the message", &answer));
        }
        Ok(())
    }

    /// All messages of the inbox, newest first.
    ///
    /// # Errors
    /// Not signed in, or the portal is away.
    pub fn read_all(&self) -> io::Result<Vec<Shown>> {
        let inbox = self.page(&format!("{}/inbox", self.portal))?;
        let mut shown = Vec::new();
        for reference in paths(&inbox, "/messages/") {
            let page = self.page(&format!("{}{reference}", self.portal))?;
            let attachments = paths(&page, &format!("{reference}/attachments/"));
            shown.push(Shown { page, attachments });
        }
        Ok(shown)
    }

    /// Downloads an attachment.
    ///
    /// # Errors
    /// The portal refuses.
    pub fn download(&self, path: &str) -> io::Result<Vec<u8>> {
        self.curl(&[&format!("{}{path}", self.portal)])
    }

    fn page(&self, url: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.curl(&[url])?).into_owned())
    }

    fn post(&self, url: &str, fields: &[(&str, &str)]) -> io::Result<String> {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let origin = format!("Origin: {}", self.portal);
        let mut arguments = vec!["--location", "--header", origin.as_str()];
        for field in &fields {
            arguments.extend(["--data-urlencode", field]);
        }
        arguments.push(url);
        Ok(String::from_utf8_lossy(&self.curl(&arguments)?).into_owned())
    }

    fn curl(&self, arguments: &[&str]) -> io::Result<Vec<u8>> {
        let jar = self.folder.path().join("cookies");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60", "--cacert"])
            .arg(&self.ca)
            .arg("--cookie")
            .arg(&jar)
            .arg("--cookie-jar")
            .arg(&jar)
            .args(arguments)
            .output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(other(said.trim(), &String::from_utf8_lossy(&output.stdout)))
    }
}

fn other(what: &str, page: &str) -> io::Error {
    io::Error::other(format!("{what}: {}", page.chars().take(600).collect::<String>()))
}

fn form_token(page: &str) -> Option<String> {
    let rest = page.split_once("name=\"form\" value=\"")?.1;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The distinct targets of links that begin with `prefix` and hold no further slash.
fn paths(page: &str, prefix: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for rest in page.split(&format!("href=\"{prefix}")).skip(1) {
        if let Some((tail, _)) = rest.split_once('"').filter(|(tail, _)| !tail.contains('/')) {
            let path = format!("{prefix}{tail}");
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// The links of all notices to `address` in a sink's Maildir, by its transcript, oldest first.
///
/// # Errors
/// The sink's folder can't be read.
pub fn notice_links(sink: &Path, address: &str) -> io::Result<Vec<String>> {
    let entries = crate::sink::transcript_of(sink)?;
    let mails = maildir(sink)?;
    let mut links = Vec::new();
    for entry in entries.iter().filter(|entry| entry.to.iter().any(|to| to.eq_ignore_ascii_case(address))) {
        let Some(file) = &entry.file else { continue };
        let content = mails.iter().find(|(path, _)| path.ends_with(Path::new(file).file_name().unwrap_or_default()));
        if let Some(link) = content.and_then(|(_, content)| link_in(content)) {
            links.push(link);
        }
    }
    Ok(links)
}

/// The portal link in a notice; quoted-printable soft breaks are taken out.
fn link_in(mail: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(mail).replace("=\r\n", "").replace("=3D", "=");
    let start = text.find("https://")?;
    let link: String = text[start..].chars().take_while(|c| !c.is_whitespace() && !"\"<>".contains(*c)).collect();
    link.contains("/m/").then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_forms_are_found_in_pages() {
        let page = "<input type=\"hidden\" name=\"form\" value=\"abc\"><a href=\"/messages/1\">x</a><a href=\"/messages/1\">y</a>\
                    <a href=\"/messages/1/attachments/0\">";
        assert_eq!(form_token(page).as_deref(), Some("abc"));
        assert_eq!(paths(page, "/messages/"), ["/messages/1"]);
        assert_eq!(paths(page, "/messages/1/attachments/"), ["/messages/1/attachments/0"]);
        assert_eq!(link_in(b"Read: https://h:1/m/ab=\r\ncd\r\n").as_deref(), Some("https://h:1/m/abcd"));
        assert_eq!(link_in(b"https://example.org/"), None);
    }
}
