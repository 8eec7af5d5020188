//! The portal in a real browser, driven by `tests/browser/portal.sh`.

use crate::harness::*;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use std::path::Path;

/// A 2 × 2 picture.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGPgz4759+8fAxDz58QAACmUBU0Ww7OkAAAAAElFTkSuQmCC";

fn wrapped(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    encoded.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join("\r\n")
}

fn report() -> Vec<u8> {
    format!(
        "From: Dr. Anna Weber <anna.weber@clinic.example>\r\nTo: Jane Roe <jane@home.example>\r\n\
         Subject: Your laboratory results of 18 November\r\nDate: Fri, 21 Nov 2025 10:04:00 +0100\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/related; boundary=y\r\n\r\n--y\r\n\
         Content-Type: text/html; charset=utf-8\r\n\r\n\
         <p>Dear Ms Roe,</p><p>here are the results of your blood test. <b>All values are within the normal range.</b> The full \
         report is attached.</p><table><tr><th>Test</th><th>Result</th><th>Range</th></tr><tr><td>Haemoglobin</td><td>13.8 g/dl\
         </td><td>12.0–16.0</td></tr><tr><td>Leucocytes</td><td>6.1 /nl</td><td>4.0–10.0</td></tr><tr><td>Ferritin</td>\
         <td>84 µg/l</td><td>15–150</td></tr></table><p style=\"color:#0f6b5c\">Please bring the report to your next visit.</p>\
         <p><img src=\"cid:logo@clinic\" width=\"48\" height=\"48\" alt=\"Clinic\"></p><p>Kind regards<br>Anna Weber</p>\
         <img src=\"https://tracker.example/open.gif\" width=\"1\" height=\"1\"><script>window.harmed = 1</script>\
         <img src=\"x\" onerror=\"window.harmed = 2\"><div style=\"position:fixed;inset:0;width:4000px\">—</div>\r\n\
         --y\r\nContent-Type: image/png\r\nContent-ID: <logo@clinic>\r\nContent-Transfer-Encoding: base64\r\n\r\n{PNG}\r\n--y--\r\n\
         --x\r\nContent-Type: application/pdf; name=\"Laboratory report 2025-11-18.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {}\r\n--x\r\nContent-Type: application/pdf; \
         name=\"Ein sehr langer Dateiname der auf einem Telefon nicht in eine Zeile passt und trotzdem lesbar bleibt.pdf\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--x--\r\n",
        wrapped(&[b'x'; 182_000]),
        wrapped(&[b'y'; 2_400_000]),
    )
    .into_bytes()
}

const PLAIN: &str = "From: billing@clinic.example\r\nTo: jane@home.example\r\nSubject: Invoice 2025-1187\r\n\
    Date: Thu, 20 Nov 2025 16:20:00 +0100\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nDear Ms Roe,\r\n\r\n\
    please find below the account for your invoice 2025-1187 over 84.20 EUR:\r\n\r\n    IBAN  DE02 1203 0000 0000 2020 51\r\n    \
    BIC   BYLADEM1001\r\n\r\nThe amount is due within 30 days. Questions? Call us at +49 30 555 0199.\r\n\r\n\
    https://a-very-long-address.example/that/has/no/blank/in/it/and/would/break/the/layout/of/every/phone/if/we/let/it?really=yes\r\n\r\n\
    Kind regards\r\nYour practice team\r\n";

const HOSTILE: &str = "From: \"<script>window.harmed = 3</script>\" <x@clinic.example>\r\nTo: jane@home.example\r\n\
    Subject: <img src=x onerror=\"window.harmed = 4\"> \"><script>window.harmed = 5</script>\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\n\
    </div><script>window.harmed = 6</script>\r\n--x\r\n\
    Content-Type: text/html; name=\"<svg onload='window.harmed = 7'>.html\"\r\nContent-Disposition: attachment\r\n\r\n\
    <script>window.harmed = 8</script>\r\n--x--\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_page_works_and_fits_in_a_browser() {
    let lab = Lab::start().await;
    let appliance = lab.enrolled().await;
    for (group, message) in [(1, PLAIN.as_bytes()), (2, HOSTILE.as_bytes()), (3, &report())] {
        let body = frame_to(&["jane@home.example"], group, message);
        assert_eq!(appliance.put(group, &body).await.status, StatusCode::CREATED);
        lab.sink.wait(group as usize).await;
    }
    let link = lab.sink.wait(3).await[2].link();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pictures = std::env::var_os("PORTAL_PICTURES").map_or(lab.folder.path().join("pictures"), Into::into);
    let out = tokio::process::Command::new(root.join("tests/browser/portal.sh"))
        .arg(format!("https://{}", lab.portal()))
        .arg(&link)
        .arg(&pictures)
        .output()
        .await
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let count = std::fs::read_dir(&pictures).unwrap().count();
    assert!(count >= 24, "{count} pictures");
}
