//! How fast a core judges English mail text.
//!
//! Prints MB/s (10⁶ bytes of message) of the whole judge, headers, decoding, detectors and rules included, on one thread:
//! `judge.text_mb_s` for plain text, then other shapes of the same text, then the detectors alone.

#![allow(clippy::print_stdout, reason = "it prints figures")]

use mail::{Action, ReversePath};
use policy::{Facts, InProcess, Policy, detect::Detectors};
use settings::{Conditions, Detect, Rule};
use std::{
    fmt::Write,
    hint::black_box,
    io::Cursor,
    time::{Duration, Instant},
};

/// What mails are made of, roughly as often.
const WORDS: &str = "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one \
    you were her all she there would their we him been has when who will more no if out so said what up its about into than \
    them can only other new some could time these two may then do first any my now such like our over man me even most made \
    after also did many before must through years where much your way well down should because each just those people how \
    too little state good very make world still own see men work long get here between both life being under never day same \
    another know while last might us great old year off come since against go came right used take three meeting project \
    report budget customer contract proposal schedule deadline update attached document please review feedback regards \
    thanks team office department manager quarter delivery supplier invoice agreement discussion presentation training \
    conference question answer request information available tomorrow morning afternoon Monday Tuesday Wednesday Thursday \
    Friday January February March April September October November December however therefore although regarding following \
    important difference understanding development government international experience particularly association \
    responsibility communication opportunity recommendation account bank card service number policy insurance health \
    patient order payment transfer address password security access system network computer software";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// English mail text of about `size` bytes with the numbers that mail has: dates, times, money, telephones, links.
fn text(random: &mut Random, size: usize) -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut out = String::with_capacity(size + 200);
    let mut column = 0;
    while out.len() < size {
        let before = out.len();
        let r = &mut *random;
        let n = |r: &mut Random, from: u64, to: u64| from + r.below(to - from);
        let _ = match r.below(400) {
            0 | 1 => write!(out, "{} March 20{}", n(r, 1, 29), n(r, 10, 27)),
            2 | 3 => write!(out, "{}:{:02}", n(r, 8, 18), n(r, 0, 60)),
            4 => write!(out, "(212) 555-{:04}", n(r, 0, 10_000)),
            5 => write!(out, "+44 20 7946 {:04}", n(r, 0, 10_000)),
            6 => {
                write!(out, "https://www.example.org/news/{}/{}?id={}", n(r, 2010, 2026), n(r, 1, 999), n(r, 1, 99_999))
            }
            7 | 8 => write!(out, "${},{:03}.{:02}", n(r, 1, 99), n(r, 0, 1000), n(r, 0, 100)),
            9 => write!(out, "order no. {}", n(r, 100_000_000, 999_999_999)),
            10 => write!(out, "{:02}/{:02}/20{}", n(r, 1, 13), n(r, 1, 29), n(r, 10, 27)),
            11 => write!(out, "ann.{}@example.org", words[n(r, 0, words.len() as u64) as usize]),
            12..=15 => write!(out, "{}", n(r, 1, 2_000)),
            16..=40 => write!(out, ".\r\n\r\nDear {},", words[n(r, 0, words.len() as u64) as usize]),
            _ => write!(out, "{}", words[n(r, 0, words.len() as u64) as usize]),
        };
        column += out.len() - before + 1;
        if column > 70 {
            out.push_str("\r\n");
            column = 0;
        } else {
            out.push_str(match random.below(14) {
                0 => ". ",
                1 => ", ",
                _ => " ",
            });
        }
    }
    out
}

fn header(kind: &str) -> String {
    format!(
        "Received: from mail.example.org (mail.example.org [192.0.2.1])\r\n\tby post.example.org with ESMTPS id 4XyZ\r\n\tfor <bob@out.example>; \
         Mon, 15 Jan 2024 10:30:45 +0000\r\nFrom: Ann Example <ann@corp.example>\r\nTo: Bob <bob@out.example>\r\n\
         Subject: Minutes of the meeting\r\nDate: Mon, 15 Jan 2024 10:30:45 +0000\r\nMessage-ID: <20240115.1030@corp.example>\r\n\
         MIME-Version: 1.0\r\n{kind}\r\n\r\n"
    )
}

/// Quoted-printable, as mail programs write it.
fn quoted_printable(text: &str) -> String {
    text.replace('=', "=3D").replace("the ", "the=20").replace("people", "people=\r\n")
}

fn html(text: &str) -> String {
    let paragraphs = text.replace("\r\n\r\n", "</p>\r\n<p style=\"margin:0\">").replace("could", "<b>could</b>");
    format!("<html><head><style>p {{ color: #333 }}</style></head><body><p>{paragraphs}</p></body></html>")
}

fn policy() -> Policy {
    let rules = settings::DETECTORS
        .iter()
        .map(|&detector| Rule {
            name: detector.to_owned(),
            when: Conditions {
                detect: vec![Detect { detector: detector.to_owned(), at_least: 1, score: 0.5 }],
                ..Conditions::default()
            },
            action: Some(Action::Secure),
            text: None,
            tag: None,
        })
        .collect();
    let settings = settings::Policy { rules, ..settings::Policy::default() };
    match Policy::compile(&settings, &[]) {
        Ok(policy) => policy,
        Err(errors) => {
            println!("{errors:?}");
            std::process::exit(1);
        }
    }
}

/// MB/s of `work` over inputs of `bytes` in all: the best of several rounds, so that neighbours disturb less.
fn rate(bytes: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut best = 0.0f64;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let started = Instant::now();
        work();
        best = best.max(bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let policy = policy();
    let facts = |size: usize| Facts {
        sender: ReversePath::Null,
        recipients: "bob@out.example".parse().into_iter().collect(),
        size: size as u64,
    };
    let judge = |messages: &[String]| {
        let bytes = messages.iter().map(String::len).sum();
        rate(bytes, || {
            for message in messages {
                let deadline = Instant::now() + Duration::from_secs(60);
                let mut source = Cursor::new(message.as_bytes());
                black_box(policy.judge(&facts(message.len()), &mut source, &InProcess, deadline));
            }
        })
    };
    let texts: Vec<String> = (0..400).map(|_| text(&mut random, 10 * 1024)).collect();
    let large: Vec<String> = (0..8).map(|_| text(&mut random, 512 * 1024)).collect();
    let with = |kind: &str, texts: &[String], body: &dyn Fn(&str) -> String| -> Vec<String> {
        texts.iter().map(|text| format!("{}{}", header(kind), body(text))).collect()
    };
    let plain = "Content-Type: text/plain; charset=us-ascii";
    let flagged = with(plain, &texts, &str::to_owned)
        .iter()
        .filter(|message| {
            let mut source = Cursor::new(message.as_bytes());
            let verdict =
                policy.judge(&facts(message.len()), &mut source, &InProcess, Instant::now() + Duration::from_secs(60));
            verdict.strongest() != Action::Relay
        })
        .count();
    println!(
        "judge.text_mb_s       {:7.0}   (10 KiB plain text; {flagged} of 400 found confidential)",
        judge(&with(plain, &texts, &str::to_owned))
    );
    println!("judge.large_mb_s      {:7.0}   (512 KiB plain text)", judge(&with(plain, &large, &str::to_owned)));
    let quoted = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable";
    println!(
        "judge.qp_mb_s         {:7.0}   (10 KiB quoted-printable)",
        judge(&with(quoted, &texts, &|t| quoted_printable(t)))
    );
    let markup = "Content-Type: text/html; charset=utf-8";
    println!("judge.html_mb_s       {:7.0}   (10 KiB HTML)", judge(&with(markup, &texts, &|t| html(t))));
    let detectors: &Detectors = policy.detectors();
    let bytes = large.iter().map(String::len).sum();
    let alone = rate(bytes, || {
        for text in &large {
            black_box(detectors.scan(text));
        }
    });
    println!("detectors.text_mb_s   {alone:7.0}   (text alone)");
    let umlauts: Vec<String> = large.iter().map(|t| t.replace("ould", "öuld")).collect();
    let alone = rate(umlauts.iter().map(String::len).sum(), || {
        for text in &umlauts {
            black_box(detectors.scan(text));
        }
    });
    println!("detectors.latin_mb_s  {alone:7.0}   (with letters beyond ASCII)");
}
