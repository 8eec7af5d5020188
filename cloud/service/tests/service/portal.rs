//! The portal as recipients, scanners and attackers meet it.

use crate::harness::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};

const PASSWORD: &str = "correct horse battery";

async fn deliver(lab: &Lab, recipients: &[&str], group: u32, message: &[u8]) -> Vec<Mail> {
    let before = lab.sink.mails.lock().unwrap().len();
    let reply = lab.enrolled().await.put(group, &frame_to(recipients, group, message)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    lab.sink.wait(before + recipients.len()).await.split_off(before)
}

fn letter() -> Vec<u8> {
    let pdf: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 256) as u8).collect();
    let encoded: Vec<String> =
        STANDARD.encode(pdf).into_bytes().chunks(76).map(|l| String::from_utf8(l.to_vec()).unwrap()).collect();
    format!(
        "From: \"Dr. <script>alert(1)</script>\" <dr.weber@clinic.example>\r\nTo: jane@home.example\r\n\
         Subject: <img src=x onerror=alert(2)> Befund\r\nDate: Fri, 21 Nov 2025 10:00:00 +0100\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
         <h2>Hello</h2><script>alert(3)</script><img src=\"https://tracker.example/p.gif\"><p onclick=\"alert(4)\">Text</p>\r\n\
         --x\r\nContent-Type: application/pdf; name=\"../../<b>x</b>.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n\
         --x\r\nContent-Type: text/html; name=\"page.html\"\r\nContent-Disposition: attachment; filename=\"page.html\"\r\n\r\n\
         <script>alert(5)</script>\r\n--x--\r\n",
        encoded.join("\r\n")
    )
    .into_bytes()
}

#[tokio::test]
async fn from_the_notice_to_the_attachment_and_out_again() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();

    let page = browser.get(&link).await;
    assert_eq!(page.status, StatusCode::OK);
    let text = page.text();
    assert!(text.contains("Example Clinic") && text.contains("j•••@home.example"), "{text}");
    assert!(!text.contains("jane@") && !text.contains("Befund") && !text.contains("Weber"), "{text}");

    let opened = browser.register(&link, PASSWORD).await;
    let message = opened.location().to_owned();
    let page = browser.get(&message).await;
    assert_eq!(page.status, StatusCode::OK);
    let text = page.text();
    assert!(text.contains("<h2>Hello</h2>") && text.contains("Befund"), "{text}");
    for harm in ["<script", "onerror=alert(2)>", "onclick", "tracker.example", "<b>x"] {
        assert!(!text.contains(harm), "{harm} in {text}");
    }
    assert!(text.contains("left out"), "{text}");

    let file = browser.get(&format!("{message}/attachments/0")).await;
    let pdf: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 256) as u8).collect();
    assert!(file.body == pdf, "{} bytes", file.body.len());
    let field = |name: &str| file.headers[name].to_str().unwrap();
    assert!(field("content-disposition").starts_with("attachment; filename="), "{}", field("content-disposition"));
    assert!(!field("content-disposition").contains(".."));
    assert_eq!(field("x-content-type-options"), "nosniff");
    assert_eq!(field("cache-control"), "no-store");
    let html = browser.get(&format!("{message}/attachments/1")).await;
    assert_eq!(html.headers["content-type"], "application/octet-stream");
    assert!(html.headers["content-security-policy"].to_str().unwrap().contains("sandbox"));

    let inbox = browser.get("/inbox").await;
    assert!(inbox.text().contains("Befund") && !inbox.text().contains("class=\"unread\""));
    let session = browser.cookies.clone();
    let out = browser.post("/signout", &[("form", &form_token(&inbox))]).await;
    assert_eq!((out.status, out.location()), (StatusCode::SEE_OTHER, "/signin"));
    // The old cookie is worth nothing any more.
    browser.cookies = session;
    assert_eq!(browser.get(&message).await.location(), "/signin");

    let mut later = lab.browser();
    let page = later.get("/signin").await;
    let form = [("form", form_token(&page)), ("address", " Jane@Home.Example".into()), ("password", PASSWORD.into())];
    let form: Vec<_> = form.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let reply = later.post("/signin", &form).await;
    assert_eq!(reply.location(), "/inbox", "{}", reply.text());
    assert!(later.get("/inbox").await.text().contains("Befund"));
}

#[tokio::test]
async fn without_a_session_every_page_leads_to_the_sign_in() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut owner = lab.browser();
    let message = owner.register(&link, PASSWORD).await.location().to_owned();
    let mut stranger = lab.browser();
    for path in ["/", "/inbox", &message, &format!("{message}/attachments/0"), &format!("{message}/images/0")] {
        let reply = stranger.get(path).await;
        assert_eq!((reply.status, reply.location()), (StatusCode::SEE_OTHER, "/signin"), "{path}");
        assert!(!reply.text().contains("Befund"));
    }
    for path in ["/signin", "/signout", &format!("{link}/register"), &format!("{link}/signin"), "/inbox", &message, "/"]
    {
        let reply = stranger.post(path, &[("form", "x"), ("address", "a"), ("password", "b"), ("again", "b")]).await;
        let refused = [StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED, StatusCode::SEE_OTHER];
        assert!(refused.contains(&reply.status), "{path}: {}", reply.status);
        assert!(!stranger.cookies.contains_key("__Host-session"), "{path}");
    }
}

#[tokio::test]
async fn one_person_cannot_reach_anothers_message() {
    let lab = Lab::start().await;
    let links = deliver(&lab, &["jane@home.example"], 0, &letter()).await;
    let other = deliver(&lab, &["eve@home.example"], 1, b"Subject: for Eve\r\n\r\nhi").await;
    let mut jane = lab.browser();
    let message = jane.register(&links[0].link(), PASSWORD).await.location().to_owned();
    let mut eve = lab.browser();
    eve.register(&other[0].link(), PASSWORD).await;
    for path in [message.clone(), format!("{message}/attachments/0"), format!("{message}/images/0")] {
        let reply = eve.get(&path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        assert!(!reply.text().contains("Befund"));
    }
    // Jane's link, opened by signed-in Eve, asks for Jane's password.
    let reply = eve.get(&links[0].link()).await;
    assert!(reply.text().contains("j•••@home.example") && !reply.text().contains("Befund"));
}

#[tokio::test]
async fn scanners_that_follow_a_link_change_nothing() {
    let lab = Lab::start().await;
    let mail = deliver(&lab, &["jane@home.example"], 0, &letter()).await.remove(0);
    for _ in 0..5 {
        let mut scanner = lab.browser();
        assert_eq!(scanner.get(&mail.link()).await.status, StatusCode::OK);
        scanner.request(Method::HEAD, &mail.link(), &[], String::new()).await;
        assert_eq!(scanner.get(&format!("{}/register", mail.link())).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }
    let mut browser = lab.browser();
    browser.register(&mail.link(), PASSWORD).await;
    assert!(browser.get("/inbox").await.text().contains("class=\"unread\""), "following the link marked it as read");
}

#[tokio::test]
async fn a_link_registers_once_and_then_only_signs_in() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut thief = lab.browser();
    let thief_token = form_token(&thief.get(&link).await);
    lab.browser().register(&link, PASSWORD).await;

    let form = [("form", thief_token.as_str()), ("password", "another password"), ("again", "another password")];
    let reply = thief.post(&format!("{link}/register"), &form).await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
    assert!(!thief.cookies.contains_key("__Host-session"));
    let page = thief.get(&link).await;
    assert!(page.text().contains("Sign in as"));
    let token = form_token(&page);
    let wrong = thief.post(&format!("{link}/signin"), &[("form", &token), ("password", "another password")]).await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    let right = thief.post(&format!("{link}/signin"), &[("form", &token), ("password", PASSWORD)]).await;
    assert_eq!(right.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn made_up_links_and_references_lead_nowhere() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();
    let message = browser.register(&link, PASSWORD).await.location().to_owned();
    for path in [
        format!("/m/{}", "A".repeat(43)),
        "/m/x".into(),
        "/m/..%2f..%2finbox".into(),
        "/messages/..%2f..%2fcloud.db".into(),
        "/messages/0".into(),
        format!("{message}/attachments/99"),
        format!("{message}/attachments/-1"),
        format!("{message}/attachments/+0"),
        format!("{message}/attachments/0x0"),
        format!("{message}/attachments/..%2f0"),
        format!("{message}/attachments/%2e%2e%2fcloud.db"),
        format!("{message}/attachments/18446744073709551616"),
        format!("{message}/images/0"),
        "/static/..%2fCargo.toml".into(),
        "/static/../Cargo.toml".into(),
        "/nothing".into(),
        "/inbox?page=-1".into(),
        "/inbox?page=x".into(),
    ] {
        let reply = browser.get(&path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}: {}", reply.text());
        assert!(reply.text().contains("<h1>"), "{path} has no page");
    }
}

#[tokio::test]
async fn a_form_from_elsewhere_is_refused() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();
    let token = form_token(&browser.get(&link).await);
    let body = format!("form={token}&password=correct+horse+battery&again=correct+horse+battery");
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let path = format!("{link}/register");
    for fields in [
        vec![kind, ("origin", "https://evil.example")],
        vec![kind, ("origin", "null")],
        vec![kind, ("sec-fetch-site", "cross-site")],
        vec![kind, ("sec-fetch-site", "same-site")],
    ] {
        let reply = browser.request(Method::POST, &path, &fields, body.clone()).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{fields:?}");
    }
    // Another browser's token, and none.
    let mut other = lab.browser();
    other.get(&link).await;
    for form in [body.as_str(), "form=&password=correct+horse+battery&again=correct+horse+battery"] {
        let reply = other.request(Method::POST, &path, &[kind], form.into()).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
    }
    let mut bare = lab.browser();
    assert_eq!(bare.request(Method::POST, &path, &[kind], body.clone()).await.status, StatusCode::FORBIDDEN);
    let huge = format!("{body}&x={}", "a".repeat(100_000));
    assert!(browser.request(Method::POST, &path, &[kind], huge).await.status.is_client_error());
    assert_eq!(browser.request(Method::POST, &path, &[kind], body).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_token_from_before_the_sign_in_does_not_sign_out() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();
    let early = form_token(&browser.get(&link).await);
    browser.register(&link, PASSWORD).await;
    assert_eq!(browser.post("/signout", &[("form", &early)]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.get("/inbox").await.status, StatusCode::OK);
}

#[tokio::test]
async fn guessing_is_slowed_and_tells_nothing_about_who_exists() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    lab.browser().register(&link, PASSWORD).await;
    let mut browser = lab.browser();
    let token = form_token(&browser.get("/signin").await);
    let mut replies = Vec::new();
    for address in ["jane@home.example", "nobody@home.example"] {
        let form = [("form", token.as_str()), ("address", address), ("password", "wrong password")];
        let reply = browser.post("/signin", &form).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        replies.push(reply.text());
    }
    assert_eq!(replies[0], replies[1]);
    for address in ["jane@home.example", "nobody@home.example"] {
        let form = [("form", token.as_str()), ("address", address), ("password", "wrong password")];
        for _ in 1..10 {
            assert_eq!(browser.post("/signin", &form).await.status, StatusCode::FORBIDDEN);
        }
        assert_eq!(browser.post("/signin", &form).await.status, StatusCode::TOO_MANY_REQUESTS);
    }
    let right = [("form", token.as_str()), ("address", "jane@home.example"), ("password", PASSWORD)];
    assert_eq!(browser.post("/signin", &right).await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn every_answer_carries_the_protective_headers() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();
    let mut paths = vec!["/signin".to_owned(), link.clone(), "/nothing".into(), "/m/x".into(), "/healthz".into()];
    paths.push(browser.register(&link, PASSWORD).await.location().to_owned());
    paths.push("/inbox".into());
    for path in paths {
        let reply = browser.get(&path).await;
        let field = |name: &str| reply.headers.get(name).unwrap_or_else(|| panic!("{path}: {name}")).to_str().unwrap();
        assert_eq!(field("cache-control"), "no-store", "{path}");
        assert_eq!(field("referrer-policy"), "same-origin");
        assert_eq!(field("x-frame-options"), "DENY");
        let policy = field("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("script-src"), "{policy}");
        let text = reply.text();
        assert!(!text.contains("<script") && !text.contains("http://"), "{path}");
        let outside = text.replace(&format!("https://{}", browser.host), "");
        assert!(!outside.contains("src=\"http") && !outside.contains("href=\"http"), "{path}: {outside}");
    }
}

#[tokio::test]
async fn another_host_name_is_not_served() {
    let lab = Lab::start().await;
    let mut browser = lab.browser();
    assert_eq!(browser.get("/healthz").await.text(), "ok\n");
    browser.host = "rebound.example".into();
    assert_eq!(browser.get("/signin").await.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(browser.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_poor_password_is_explained_and_opens_no_account() {
    let lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();
    let token = form_token(&browser.get(&link).await);
    for (password, again, word) in [("short", "short", "too short"), (PASSWORD, "other words here", "not the same")] {
        let form = [("form", token.as_str()), ("password", password), ("again", again)];
        let reply = browser.post(&format!("{link}/register"), &form).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(reply.text().contains(word), "{}", reply.text());
    }
    assert!(browser.get(&link).await.text().contains("Choose a password"));
}

#[tokio::test]
async fn accounts_sessions_and_messages_survive_a_restart() {
    let mut lab = Lab::start().await;
    let link = deliver(&lab, &["jane@home.example"], 0, &letter()).await[0].link();
    let mut browser = lab.browser();
    let message = browser.register(&link, PASSWORD).await.location().to_owned();
    let cookies = browser.cookies.clone();
    lab.restart().await;
    let mut browser = lab.browser();
    browser.cookies = cookies;
    assert!(browser.get(&message).await.text().contains("Befund"));
    assert_eq!(lab.sink.mails.lock().unwrap().len(), 1, "the notice was sent again");
}

#[tokio::test]
async fn a_refused_notice_is_tried_again_or_given_up_and_holds_up_nobody() {
    let mut lab = Lab::start().await;
    lab.sink.refusals.lock().unwrap().extend(["550 5.1.1 unknown jane@home.example", "451 4.7.1 later"]);
    let body = frame_to(&["a@home.example", "b@home.example", "c@home.example"], 0, b"Subject: x\r\n\r\nx");
    lab.enrolled().await.put(0, &body).await;
    let mails = lab.sink.wait(1).await;
    assert!(lab.sink.refusals.lock().unwrap().is_empty() && !mails.is_empty());
    // The one answered 451 follows after the first wait of 20 s, which the test does not sit out; the one answered 550
    // never does.
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(lab.data().join("cloud.db"));
    let db = sqlx::SqlitePool::connect_with(file).await.unwrap();
    let waiting = "SELECT due_at FROM notice WHERE state = 0 AND attempts = 1";
    let mut due: Vec<(i64,)> = Vec::new();
    for _ in 0..100 {
        due = sqlx::query_as(waiting).fetch_all(&db).await.unwrap();
        let (open,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM notice WHERE state = 0").fetch_one(&db).await.unwrap();
        if open == 1 && due.len() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let now = jiff::Timestamp::now().as_second();
    assert!(due.len() == 1 && (now + 15..=now + 20).contains(&due[0].0), "{due:?} at {now}");
    sqlx::query("UPDATE notice SET due_at = 0 WHERE state = 0").execute(&db).await.unwrap();
    db.close().await;
    lab.restart().await;
    let mails = lab.sink.wait(2).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(lab.sink.mails.lock().unwrap().len(), mails.len());
    assert_eq!(mails.len(), 2);
}
