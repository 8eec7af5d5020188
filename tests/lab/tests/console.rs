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
    /// Opens a terminal of this size with a command in it.
    fn run(name: &str, (columns, rows): (u16, u16), command: &str) -> Self {
        let terminal = Self { server: format!("postern-test-{name}") };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, command]);
        terminal
    }

    /// Opens the console as a user of its own, where the test may become one.
    fn open(system: &System, term: &str) -> Self {
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
        Self::run(&system.layout.smtp().port().to_string(), (80, 24), &console)
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

    /// Chooses from a menu by the key in front of the entry.
    #[track_caller]
    fn choose(&self, entry: &str) {
        let screen = self.see(entry);
        let line = screen.lines().find(|line| line.contains(entry)).unwrap();
        self.key(line.split_whitespace().next().unwrap());
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
    terminal.see("Where mail for everybody else goes");
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
        terminal.choose("Sign out");
        terminal.see("Signed out");
    }
    terminal.key("Enter");
    terminal.see("name and password of an administrator");
    terminal.line("admin");
    terminal.line("a wrong password");
    terminal.see("name or password is wrong");
    terminal.line(PASSWORD);
    terminal.choose("ask all questions again");
    let again = terminal.see("Settings 1/");
    assert!(again.contains("postern.clinic.example"), "{again}");
    terminal.key("Escape");
    terminal.see("go on where you were");

    // A new recovery key is not made by a slip.
    terminal.choose("make a new one");
    terminal.see("Make a new recovery key?");
    terminal.line("a wrong password");
    terminal.see("name or password is wrong");
    terminal.key("Escape");

    // A daemon that is gone leaves no green board behind.
    terminal.key("Escape");
    terminal.see("mail flows");
    system.stop_appliance().unwrap();
    let board = terminal.see("no answer from the service since");
    assert!(!board.contains("mail flows") && !board.contains(" admin"), "{board}");
    terminal.key("C-l");
    terminal.see("no answer from the service since");

    // Another boot: locked, until somebody has the paper.
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

    // A message whose next hop is away is seen in the queue, and tried when an operator wants it.
    system.next_hop = None;
    let mut client = lab::smtp::Client::connect(system.layout.smtp()).unwrap();
    client.send("a@clinic.example", &["bob@partner.example"], b"Subject: x\r\n\r\nx\r\n").unwrap();
    terminal.key("Enter");
    terminal.line("admin");
    terminal.line(PASSWORD);
    terminal.choose("Queue");
    let queue = terminal.see("smarthost");
    assert!(queue.contains("oldest") && queue.contains("under way"), "{queue}");
    terminal.key("Enter");
    terminal.see("bob@partner.example");
    terminal.key("a");
    terminal.see("1 message tried now.");
    terminal.key("Escape");
    terminal.see("Next hop");
    terminal.key("Escape");
    drop(terminal);
    system.stop().unwrap();
}

#[test]
fn a_serial_line_without_a_size_its_garbage_and_its_end_are_borne() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, ended) = (folder.path().join("none.sock"), folder.path().join("ended"));
    let postern = sibling("postern").unwrap();
    let serial = format!(
        "trap '' HUP; stty cols 0 rows 0; TERM=vt220 LC_ALL=C POSTERN_SOCKET={} {} console; echo $? > {}",
        socket.display(),
        postern.display(),
        ended.display(),
    );
    let terminal = Terminal::run(&format!("serial-{}", std::process::id()), (100, 30), &serial);
    let screen = terminal.see("Waiting for the service");
    let lines: Vec<&str> = screen.lines().collect();
    assert_eq!(lines.iter().rposition(|line| line.contains("P power")), Some(23), "drawn for 80x24: {screen}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{screen}");

    // Breaks, halves of characters, sequences that never end, keys that come byte by byte.
    for bytes in
        ["00 ff fe c3 28 e2 82 1b 5b 31 31 31", "9b 9b 1b 1b 1b 4f", "18 07 05 0e 0f 1b 63", "80 81 f4 90 90 90"]
    {
        let bytes: Vec<&str> = bytes.split(' ').collect();
        terminal.tmux(&[["send-keys", "-H"].as_slice(), &bytes].concat());
    }
    std::thread::sleep(Duration::from_millis(400));
    terminal.key("p");
    terminal.see("Switch off");
    terminal.tmux(&["send-keys", "-H", "1b", ";", "send-keys", "-H", "5b", ";", "send-keys", "-H", "42"]);
    terminal.key("Enter");
    terminal.see("Switch the appliance off");
    terminal.key("Escape");
    terminal.see("Waiting for the service");

    // What others wrote over it goes with Ctrl-L.
    let device = terminal.tmux(&["display-message", "-p", "#{pane_tty}"]);
    fs::write(device.trim(), "\x1b[7m\x1b[5;1Hkernel: a message over the screen\x1b(0").unwrap();
    terminal.see("kernel: a message over the screen");
    terminal.key("C-l");
    let start = Instant::now();
    while terminal.screen().contains("kernel:") {
        assert!(start.elapsed() < PATIENCE, "{}", terminal.screen());
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.see("Waiting for the service");

    // The line is gone: the console ends, so that the system starts another on the next one.
    drop(terminal);
    let start = Instant::now();
    while fs::read_to_string(&ended).unwrap_or_default().trim() != "1" {
        assert!(start.elapsed() < PATIENCE, "the console runs on without its terminal");
        std::thread::sleep(Duration::from_millis(50));
    }
}
