//! How many sessions there may be, and how long each may wait.
//!
//! Job: count sessions in all and by client, and name every time bound with its reason. Place: asked for each connection
//! before anything is read from it. Invariants: a [`Place`] is counted exactly as long as it lives. A crash leaves
//! nothing behind.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Time bounds of a session; the defaults are those of RFC 5321 §4.5.3.2 where it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a whole command line, however its octets trickle in: 5 minutes (§4.5.3.2.7).
    pub command: Duration,
    /// Between two pieces of a message: 3 minutes (§4.5.3.2.5).
    pub content: Duration,
    /// For a whole message before [`Timeouts::rate`] counts: 5 minutes.
    pub grace: Duration,
    /// Octets a second that a message must come with on average after the grace: 256, well under a modem's rate.
    pub rate: u64,
    /// For a TLS handshake: 1 minute; three round trips, whatever the line.
    pub handshake: Duration,
    /// For the client to take a reply: 5 minutes, as for commands.
    pub write: Duration,
    /// From the beginning of a stop until what is still being received is cut: 30 s, so that an operator's stop ends.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            content: Duration::from_secs(180),
            grace: Duration::from_secs(300),
            rate: 256,
            handshake: Duration::from_secs(60),
            write: Duration::from_secs(300),
            drain: Duration::from_secs(30),
        }
    }
}

/// Clients outside the listed networks reach the postmaster only; they may not take the places of those who hand in
/// mail. They get one in so many of all places, and at least one.
const STRANGERS_SHARE: usize = 4;

/// Why there is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many sessions as are allowed, or as many as are left to strangers.
    All,
    /// As many as one client may have.
    Client,
}

/// The places of all sessions.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    max_per_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    strangers: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl Places {
    pub(crate) fn new(max: usize, max_per_client: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_client, taken: Mutex::default() })
    }

    /// Takes a place for a session of this client; `listed`: it is in a listed network.
    pub(crate) fn take(self: &Arc<Self>, ip: IpAddr, listed: bool) -> Result<Place, Full> {
        let client = client(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let strangers = (self.max / STRANGERS_SHARE).max(1);
        if taken.all >= self.max || (!listed && taken.strangers >= strangers) {
            return Err(Full::All);
        }
        let mine = taken.by_client.entry(client).or_default();
        if *mine >= self.max_per_client {
            return Err(Full::Client);
        }
        *mine += 1;
        taken.all += 1;
        taken.strangers += usize::from(!listed);
        Ok(Place { places: Arc::clone(self), client, listed })
    }

    /// Takes a place for a session of the appliance itself, whatever the bounds.
    pub(crate) fn take_one_more(self: &Arc<Self>, ip: IpAddr) -> Place {
        let client = client(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken.by_client.entry(client).or_default() += 1;
        taken.all += 1;
        Place { places: Arc::clone(self), client, listed: true }
    }
}

/// Tells how many sessions there are at present. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(pub(crate) Arc<Places>);

impl Sessions {
    /// How many there are, those that are ending among them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

/// One session's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    client: IpAddr,
    listed: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        taken.strangers = taken.strangers.saturating_sub(usize::from(!self.listed));
        if let Some(mine) = taken.by_client.get_mut(&self.client) {
            *mine = mine.saturating_sub(1);
            if *mine == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 that one IPv6 host can choose its addresses from.
fn client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_given_back_and_the_table_does_not_grow() {
        let places = Places::new(3, 2);
        let first = places.take(ip("192.0.2.1"), true).unwrap();
        let second = places.take(ip("::ffff:192.0.2.1"), true).unwrap();
        assert_eq!(places.take(ip("192.0.2.1"), true).unwrap_err(), Full::Client);
        let third = places.take(ip("192.0.2.2"), true).unwrap();
        assert_eq!(Sessions(Arc::clone(&places)).count(), 3);
        assert_eq!(places.take(ip("192.0.2.3"), true).unwrap_err(), Full::All);
        drop(first);
        assert!(places.take(ip("192.0.2.1"), true).is_ok());
        drop((second, third));
        assert!(places.taken.lock().unwrap().by_client.is_empty());
        assert_eq!(Sessions(places).count(), 0);
    }

    #[test]
    fn the_appliance_itself_has_a_place_when_all_are_taken_and_gives_it_back() {
        let places = Places::new(1, 1);
        let _taken = places.take(ip("127.0.0.1"), true).unwrap();
        let ours = places.take_one_more(ip("127.0.0.1"));
        assert_eq!(Sessions(Arc::clone(&places)).count(), 2);
        drop(ours);
        assert_eq!(Sessions(places).count(), 1);
    }

    #[test]
    fn one_ipv6_host_cannot_pose_as_many_clients() {
        let places = Places::new(10, 1);
        let _held = places.take(ip("2001:db8::1"), true).unwrap();
        assert_eq!(places.take(ip("2001:db8::2"), true).unwrap_err(), Full::Client);
        assert!(places.take(ip("2001:db8:0:1::2"), true).is_ok());
    }

    #[test]
    fn strangers_leave_room_for_those_who_hand_in_mail() {
        let places = Places::new(8, 8);
        let strangers: Vec<Place> = ["192.0.2.1", "192.0.2.2"].map(|at| places.take(ip(at), false).unwrap()).into();
        assert_eq!(places.take(ip("192.0.2.3"), false).unwrap_err(), Full::All);
        assert!(places.take(ip("192.0.2.3"), true).is_ok());
        drop(strangers);
        assert!(places.take(ip("192.0.2.3"), false).is_ok());
    }
}
