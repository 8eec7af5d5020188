//! Whatever a next hop sends, the client keeps its promises.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise ends the test")]

use mail::{Address, Outcome, ReversePath};
use proptest::prelude::*;
use session::client::{Action, Client, Input, Tls, Transaction};

/// What may happen next on the connection.
#[derive(Clone, Debug)]
enum Event {
    Octets(Vec<u8>),
    Lost,
    TimedOut,
}

fn event() -> impl Strategy<Value = Event> {
    let likely = prop::sample::select(vec![
        "220 hi\r\n",
        "250-hi\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 STARTTLS\r\n",
        "250-hi\r\n250 STARTTLS\r\n",
        "250 ok\r\n",
        "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
        "250 ok\r\n550 no\r\n450 later\r\n354 go\r\n",
        "354 go\r\n",
        "421 bye\r\n",
        "450 4.2.0 later\r\n",
        "550 5.1.1 no\r\n",
        "25",
        "0 ok\r\n",
        "250 ok\n",
    ]);
    prop_oneof![
        20 => likely.prop_map(|text| Event::Octets(text.as_bytes().to_vec())),
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Event::Octets),
        1 => Just(Event::Lost),
        1 => Just(Event::TimedOut),
    ]
}

/// A client, and what it has promised so far.
struct Watched {
    client: Client,
    tls: Tls,
    secured: bool,
    /// A message is under way; and whether its content was sent.
    under_way: Option<bool>,
    closed: bool,
    recipients: Vec<Address>,
    sender: ReversePath,
}

impl Watched {
    fn feed(mut self, input: Input<'_>) -> Self {
        let (client, mut actions) = self.client.step(input);
        self.client = client;
        while !actions.is_empty() {
            let mut next = Vec::new();
            for action in actions {
                assert!(!self.closed, "{action:?} after the end");
                let input = match action {
                    Action::Write(octets) => {
                        assert!(octets.ends_with(b"\r\n"));
                        continue;
                    }
                    Action::StartTls => {
                        self.secured = true;
                        Input::Secured
                    }
                    Action::Ready => {
                        assert!(self.under_way.is_none(), "ready with a message under way");
                        assert!(self.secured || self.tls != Tls::Required, "ready without the TLS that is required");
                        self.under_way = Some(false);
                        let recipients: Vec<&Address> = self.recipients.iter().collect();
                        let transaction = Transaction {
                            sender: &self.sender,
                            recipients: &recipients,
                            size: 10,
                            eight_bit: false,
                            utf8_header: false,
                            smtputf8: false,
                        };
                        let (client, actions) = self.client.step(Input::Begin(transaction));
                        self.client = client;
                        next.extend(actions);
                        continue;
                    }
                    Action::SendContent => {
                        assert_eq!(self.under_way, Some(false), "content twice, or for no message");
                        self.under_way = Some(true);
                        Input::ContentSent
                    }
                    Action::Completed(completed) => {
                        let sent = self.under_way.take().unwrap_or_else(|| panic!("an outcome for no message"));
                        assert_eq!(completed.outcomes.len(), self.recipients.len());
                        for outcome in completed.outcomes {
                            match outcome {
                                Outcome::Delivered(reply) => assert!(sent && reply.is_positive(), "{reply}"),
                                Outcome::Failed(reply) => assert!(reply.is_permanent(), "{reply}"),
                                Outcome::Deferred(reply) => assert!(!reply.is_positive(), "{reply}"),
                            }
                        }
                        continue;
                    }
                    Action::Unusable(reply) => {
                        assert!(!reply.is_positive() && self.under_way.is_none());
                        continue;
                    }
                    Action::Close => {
                        assert!(self.under_way.is_none(), "a message was left without an outcome");
                        self.closed = true;
                        continue;
                    }
                };
                let (client, actions) = self.client.step(input);
                self.client = client;
                next.extend(actions);
            }
            actions = next;
        }
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn each_message_has_one_outcome_for_each_recipient_and_none_is_delivered_unsent(
        events in prop::collection::vec(event(), 0..30),
        tls in prop::sample::select(vec![Tls::None, Tls::Opportunistic, Tls::Required]),
    ) {
        let mut watched = Watched {
            client: Client::new("postern.example", tls),
            tls,
            secured: false,
            under_way: None,
            closed: false,
            recipients: vec!["a@example.net".parse().unwrap(), "b@example.net".parse().unwrap()],
            sender: "s@example.org".parse().unwrap(),
        };
        for event in &events {
            if watched.closed {
                break;
            }
            watched = match event {
                Event::Octets(octets) => watched.feed(Input::Received(octets)),
                Event::Lost => watched.feed(Input::Lost),
                Event::TimedOut => watched.feed(Input::TimedOut),
            };
        }
        // However it went, the end of the connection settles what is left.
        if !watched.closed {
            watched = watched.feed(Input::Lost);
        }
        prop_assert!(watched.closed && watched.under_way.is_none());
    }
}
