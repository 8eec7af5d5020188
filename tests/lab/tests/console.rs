//! A new appliance is set up at its console, by keys on a terminal (tmux), as the one who racks it would.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use lab::{
    layout::Layout,
    process::{free_port_base, sibling},
    system::{Options, System},
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);
const PASSWORD: &str = "plum tree in the yard";

/// Hands a bound socket over, as systemd does (sd_listen_fds(3)).
const HAND_OVER: &str = "use IO::Socket::INET; use POSIX; my $address = shift; \
    my $s = IO::Socket::INET->new(Listen => 50, LocalAddr => $address, ReuseAddr => 1) or die $!; \
    POSIX::dup2(fileno($s), 3) // die $!; $^F = 3; \
    use Fcntl; open(my $three, '<&=', 3); fcntl($three, F_SETFD, 0); \
    $ENV{LISTEN_FDS} = 1; $ENV{LISTEN_PID} = $$; exec @ARGV or die $!";

/// A terminal with the console in it.
struct Terminal {
    server: String,
}

impl Terminal {
    /// Opens the console as a user of its own, where the test may become one.
    fn open(system: &System, term: &str) -> Self {
        let server = format!("postern-test-{}", system.layout.smtp().port());
        let terminal = Self { server };
        let postern = sibling("postern").unwrap();
        let socket = system.layout.socket();
        let other = if nix::unistd::Uid::effective().is_root() {
            let mut folder = socket.parent();
            while let Some(open) = folder.filter(|folder| folder.starts_with(std::env::temp_dir())) {
                fs::set_permissions(open, Permissions::from_mode(0o755)).unwrap();
                folder = open.parent().filter(|parent| *parent != std::env::temp_dir());
            }
            "setpriv --reuid=65534 --regid=65534 --clear-groups "
        } else {
            ""
        };
        let console =
            format!("TERM={term} LC_ALL=C POSTERN_SOCKET={} {other}{} console", socket.display(), postern.display());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &console]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.server]).args(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows `text`.
    #[track_caller]
    fn see(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(text) && !screen.contains("please wait") {
                keep(text, &screen);
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "\"{text}\" is not on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn line(&self, text: &str) {
        if !text.is_empty() {
            self.tmux(&["send-keys", "-l", text]);
        }
        self.key("Enter");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}

/// Screens for whoever wants to look at them: `POSTERN_SCREENS=DIR`.
fn keep(name: &str, screen: &str) {
    if let Some(folder) = std::env::var_os("POSTERN_SCREENS") {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        fs::create_dir_all(&folder).unwrap();
        fs::write(Path::new(&folder).join(name), screen).unwrap();
    }
}

/// The words of the recovery key, read from the screen by their numbers.
fn words(screen: &str) -> Vec<String> {
    let parts: Vec<&str> = screen.split_whitespace().collect();
    let word = |number: usize| {
        let at = parts.iter().position(|part| *part == number.to_string())?;
        parts.get(at + 1).filter(|word| word.chars().all(|c| c.is_ascii_lowercase())).map(ToString::to_string)
    };
    (1..=24).map(|number| word(number).unwrap_or_else(|| panic!("word {number} is not in:\n{screen}"))).collect()
}

fn open_to_all(system: &System) {
    let start = Instant::now();
    while !system.layout.socket().exists() {
        assert!(start.elapsed() < PATIENCE, "the daemon has no socket");
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::set_permissions(system.layout.socket(), Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn a_new_appliance_is_set_up_at_the_console_operated_and_unlocked() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(&folder.path().join("lab"), free_port_base().unwrap()).unwrap();
    let through = ["perl", "-e", HAND_OVER, &layout.smtp().to_string()].map(str::to_owned).to_vec();
    let options = Options {
        no_cloud: true,
        no_settings: true,
        foreign_appliance: true,
        appliance_through: through,
        ..Options::default()
    };
    let mut system = System::start(layout, options).unwrap();
    let terminal = Terminal::open(&system, "vt102");
    terminal.see("Waiting for the service");
    system.spawn_appliance().unwrap();
    open_to_all(&system);
    let board = terminal.see("no settings yet");
    assert!(board.is_ascii(), "{board}");
    let refused = lab::smtp::Client::connect(system.layout.smtp()).unwrap().command("MAIL FROM:<a@b.example>", "451");
    assert!(
        refused.is_ok() || refused.is_err_and(|error| error.to_string().contains("451")),
        "mail is refused for now"
    );

    terminal.key("Enter");
    terminal.see("Name and address");
    terminal.line("box");
    terminal.key("Left");
    terminal.key("PageDown");
    terminal.see("not fully qualified");
    terminal.tmux(&["send-keys", "C-u"]);
    terminal.line("postern.clinic.example");
    terminal.key("PageDown");
    terminal.see("Clock now");
    terminal.tmux(&["send-keys", "C-u"]);
    terminal.key("PageDown");
    terminal.see("Where mail for everybody else goes");

    // The daemon goes and comes back: what is typed stays.
    terminal.line(&system.layout.sink().to_string());
    system.stop_appliance().unwrap();
    terminal.see("waiting for the service");
    let _ = fs::remove_file(system.layout.socket());
    terminal.line("clinic.example");
    system.spawn_appliance().unwrap();
    open_to_all(&system);
    terminal.line(&system.layout.internal().to_string());
    let mail = terminal.see("May hand in mail");
    assert!(mail.contains(&system.layout.sink().to_string()) && mail.contains("clinic.example"), "{mail}");
    terminal.see("Esc page before");
    terminal.key("PageDown");
    terminal.see("Cloud service");
    terminal.key("PageDown");
    terminal.see("Administrator");
    terminal.key("Enter");
    terminal.line("short");
    terminal.line("short");
    terminal.see("guessed too soon");
    terminal.tmux(&["send-keys", "C-u"]);
    terminal.line(PASSWORD);
    terminal.tmux(&["send-keys", "C-u"]);
    terminal.line(PASSWORD);
    terminal.see("Have paper and a pen ready");
    terminal.key("Enter");
    let shown = terminal.see("Write these words down");
    let words = words(&shown);
    terminal.key("Enter");
    let asked = terminal.see("Type these words");
    let numbers: Vec<usize> = asked
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Word ")?.split_whitespace().next()?.parse().ok())
        .collect();
    assert_eq!(numbers.len(), 6, "{asked}");
    for number in numbers {
        terminal.line(&words[number - 1]);
    }
    let summary = terminal.see("Nothing of this is in force yet");
    assert!(summary.contains("postern.clinic.example") && !summary.contains(PASSWORD), "{summary}");
    terminal.key("Enter");
    terminal.see("Test message");
    terminal.line("bob@partner.example");
    terminal.see("taken by the next hop");
    assert_eq!(system.next_hop.as_ref().unwrap().count(), 1);
    terminal.key("Escape");
    let board = terminal.see("mail flows");
    assert!(board.contains("recovery key confirmed"), "{board}");

    // Who comes next is asked who he is.
    if board.contains("Enter menu") {
        terminal.key("Enter");
        terminal.see("What do you want to do?");
        terminal.key("8");
        terminal.see("Signed out");
    }
    terminal.key("Enter");
    terminal.see("name and password of an administrator");
    terminal.line("admin");
    terminal.line("a wrong password");
    terminal.see("name or password is wrong");
    terminal.line(PASSWORD);
    terminal.see("What do you want to do?");
    terminal.key("1");
    let again = terminal.see("Settings 1/");
    assert!(again.contains("postern.clinic.example"), "{again}");
    terminal.key("Escape");
    terminal.see("go on with the settings");

    // Another boot: locked, until somebody has the paper.
    system.stop_appliance().unwrap();
    let _ = fs::remove_file(system.layout.socket());
    system.tpm.extend(12, b"init=/bin/sh").unwrap();
    system.spawn_appliance().unwrap();
    open_to_all(&system);
    terminal.see("PCR 12");
    terminal.key("Enter");
    terminal.see("as they stand on your paper");
    terminal.line(&words.join(" "));
    let board = terminal.see("Unlocked until the next start");
    assert!(!board.contains(" admin"), "a sign-in ends with the daemon that it was made to: {board}");
    terminal.see("asks for the recovery key");
    drop(terminal);
    system.stop().unwrap();
}
