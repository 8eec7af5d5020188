//! A machine: QEMU's q35 with UEFI Secure Boot, a TPM 2.0 (swtpm behind tpm-crb), a disk, a network card, a watchdog.
//!
//! Job: power on, power cut, and what a person with a screwdriver can do in between. Place: around the image. Invariants:
//! disk, firmware variables and TPM state live in the machine's folder and survive a power cut as they do in a box; the
//! mail port is forwarded on 127.0.0.1 alone. A crash takes QEMU and swtpm along (PR_SET_PDEATHSIG).

use crate::{
    agent::Agent,
    image::Image,
    serial::{self, Line, Serial},
    snapshot::disk_over,
};
use lab::process::{Process, free_port, wait_until};
use std::{
    fs, io,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// UEFI firmware with Secure Boot and System Management Mode (package ovmf).
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// There while a second disk is plugged in.
pub(crate) const SECOND_DISK: &str = "second.qcow2";
/// Size of the machine's disk.
const DISK: &str = "4G";

/// A machine and its folder.
pub struct Machine {
    folder: PathBuf,
    smtp: SocketAddr,
    qemu: Option<Process>,
    tpm: Option<Process>,
    line: Option<Line>,
    powered: Option<Instant>,
}

impl Machine {
    /// A machine in `folder` with the image flashed on its disk, its Secure Boot keys enrolled, and a new TPM.
    ///
    /// # Errors
    /// A tool is missing or refuses; the error says which.
    pub fn new(folder: &Path, image: &Image) -> io::Result<Self> {
        let machine = Self::in_folder(folder)?;
        disk_over(&image.file("disk.img"), "raw", Some(DISK), &machine.file("disk.qcow2"))?;
        fs::copy(image.file("ovmf-vars.fd"), machine.file("vars.fd"))?;
        machine.new_tpm()?;
        Ok(machine)
    }

    /// A machine without disk, firmware variables and TPM.
    pub(crate) fn in_folder(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.canonicalize()?,
            smtp: free_port()?,
            qemu: None,
            tpm: None,
            line: None,
            powered: None,
        })
    }

    /// Puts a new TPM into the socket: other seeds, nothing sealed.
    ///
    /// # Errors
    /// swtpm_setup refuses.
    pub fn new_tpm(&self) -> io::Result<()> {
        let state = self.folder.join("tpm");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        fs::create_dir(&state)?;
        tool("swtpm_setup", &["--tpm2", "--tpm-state", text(&state), "--pcr-banks", "sha256", "--overwrite"])
    }

    /// Power on.
    ///
    /// # Errors
    /// swtpm or QEMU does not start.
    pub fn power_on(&mut self) -> io::Result<()> {
        self.power_cut();
        let tpm_socket = self.file("tpm.sock");
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--terminate", "--tpmstate"]);
        command.arg(format!("dir={}", self.file("tpm").display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", tpm_socket.display()));
        let mut tpm = Process::start("swtpm", command, &self.file("swtpm.log"))?;
        wait_until(&mut tpm, Duration::from_secs(10), "swtpm opens no socket", || tpm_socket.exists())?;
        self.tpm = Some(tpm);
        self.powered = Some(Instant::now());
        let mut qemu = Process::start("QEMU", self.command(), &self.file("qemu.log"))?;
        let console = self.file("serial.sock");
        wait_until(&mut qemu, Duration::from_secs(20), "QEMU opens no console", || console.exists())?;
        self.line = Some(serial::join(&console, &self.file("serial.log"))?);
        self.qemu = Some(qemu);
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35,smm=on,accel=tcg", "-cpu", "max,la57=off", "-smp", "2", "-m", "1024"]);
        command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        // The machine's serial number, from which its machine ID comes.
        command.args(["-uuid", "504f5354-4552-4e00-a000-000000000001"]);
        command.args(["-display", "none", "-nodefaults", "-no-user-config", "-vga", "std"]);
        command.arg("-drive").arg(format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}"));
        command.arg("-drive").arg(format!("if=pflash,unit=1,format=raw,file={}", self.file("vars.fd").display()));
        command.arg("-drive").arg(format!("if=none,id=disk,format=qcow2,file={}", self.file("disk.qcow2").display()));
        command.args(["-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
        let second = self.file(SECOND_DISK);
        if second.exists() {
            command.arg("-drive").arg(format!("if=none,id=second,format=qcow2,file={}", second.display()));
            command.args(["-device", "virtio-blk-pci,drive=second"]);
        }
        command.arg("-chardev").arg(format!("socket,id=tpm,path={}", self.file("tpm.sock").display()));
        command.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]);
        command.arg("-netdev").arg(format!("user,id=net,hostfwd=tcp:{}-10.0.2.15:25", self.smtp));
        command.args(["-device", "virtio-net-pci,netdev=net,mac=52:54:00:50:4f:53,romfile="]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=serial,server=on,wait=on,path={}", self.file("serial.sock").display()));
        command.args(["-serial", "chardev:serial", "-device", "virtio-serial-pci"]);
        command
            .arg("-chardev")
            .arg(format!("socket,id=agent,server=on,wait=off,path={}", self.file("agent.sock").display()));
        command.args(["-device", "virtserialport,chardev=agent,name=org.postern.development"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", self.file("qmp.sock").display()));
        command.args(["-device", "i6300esb", "-watchdog-action", "reset", "-device", "virtio-rng-pci"]);
        command
    }

    /// The plug is pulled: QEMU is killed, what the disk was told to keep is kept.
    pub fn power_cut(&mut self) {
        self.line = None;
        for process in [self.qemu.take(), self.tpm.take()] {
            drop(process);
        }
        for socket in ["serial.sock", "agent.sock", "tpm.sock", "qmp.sock"] {
            // Not there when the machine was off.
            let _ = fs::remove_file(self.file(socket));
        }
    }

    /// Presses the power button, shortly.
    ///
    /// # Errors
    /// The machine is off.
    pub fn press_power_button(&self) -> io::Result<()> {
        let mut control = BufReader::new(UnixStream::connect(self.file("qmp.sock"))?);
        let mut said = String::new();
        control.read_line(&mut said)?;
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(control.get_mut(), "{{\"execute\": \"{command}\"}}")?;
            control.read_line(&mut said)?;
        }
        if said.contains("\"error\"") { Err(io::Error::other(said)) } else { Ok(()) }
    }

    /// Waits until the machine has switched itself off.
    ///
    /// # Errors
    /// It is still on after `patience`.
    pub fn wait_until_off(&mut self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while let Some(qemu) = self.qemu.as_mut() {
            if qemu.ended()?.is_some() {
                self.power_cut();
                break;
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the machine does not switch itself off"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Waits for the greeting of the mail port; the time since power-on.
    ///
    /// # Errors
    /// None within `patience`; the error ends with the console's last lines.
    pub fn wait_for_greeting(&mut self, patience: Duration) -> io::Result<Duration> {
        let powered = self.powered.ok_or_else(|| io::Error::other("the machine is off"))?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(qemu) = self.qemu.as_mut()
                && let Some(status) = qemu.ended()?
            {
                return Err(io::Error::other(format!(
                    "QEMU ended with {status}; see {}",
                    self.file("qemu.log").display()
                )));
            }
            if greets(self.smtp) {
                return Ok(powered.elapsed());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let text = self.serial().text();
        let lines: Vec<_> = text.lines().rev().take(30).collect();
        let tail: Vec<_> = lines.into_iter().rev().collect();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no greeting on the mail port; the console's last lines:\n{}", tail.join("\n")),
        ))
    }

    /// The mail port, forwarded.
    #[must_use]
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// The console.
    #[must_use]
    pub fn serial(&self) -> Serial {
        Serial::new(&self.file("serial.log"), self.line.clone())
    }

    /// The development agent.
    #[must_use]
    pub fn agent(&self) -> Agent {
        Agent::new(&self.file("agent.sock"))
    }

    /// A file in the machine's folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_cut();
    }
}

/// Whether an SMTP server greets on `address`. QEMU takes connections that the machine then refuses, so the reply counts.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(3))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"220 "
}

/// Runs a tool of the host to its end.
///
/// # Errors
/// It is missing or fails; the error has what it printed.
pub fn tool(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        io::Error::new(error.kind(), format!("{program} can't be started ({error}); `make setup` installs it"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{program} {} failed: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}

pub(crate) fn text(path: &Path) -> &str {
    // Folders of tests are made by `tempfile`, whose names are ASCII.
    path.to_str().unwrap_or_default()
}
