//! A pseudoterminal without a user, for output that commands print only to terminals.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// A pseudo-terminal, 80 columns wide by default. What is written to it is collected in a thread until the last writer is gone.
#[derive(Debug)]
pub struct Terminal {
    side: File,
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// A terminal.
    #[must_use]
    pub fn open() -> Self {
        Self::with_columns(80)
    }

    /// A terminal of another width.
    #[must_use]
    pub fn with_columns(columns: u16) -> Self {
        let (mut master, side) = Self::sides(columns);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let keys = master.try_clone().expect("a descriptor");
        let kept = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails when the other side is closed.
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                kept.lock().expect("nobody panics with it").extend_from_slice(&bytes[..n]);
            }
        });
        Self { side, keys, shown }
    }

    /// The two sides of a terminal: that of a terminal emulator, with which the terminal goes away, and that of a command.
    #[must_use]
    pub fn sides(columns: u16) -> (File, File) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal of this process's own");
        let name = ptsname(&master, Vec::new()).expect("a terminal has a name");
        let side = File::options().read(true).write(true).open(name.to_str().expect("a plain name")).expect("its other side");
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&side, size).expect("a size");
        (File::from(master), side)
    }

    /// Its side for a command's standard error or output.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        Stdio::from(self.side.try_clone().expect("a descriptor"))
    }

    /// Changes its size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.side, size).expect("a size");
    }

    /// How it treats keys.
    #[must_use]
    pub fn modes(&self) -> String {
        let modes = rustix::termios::tcgetattr(&self.side).expect("its settings");
        format!("{:?} {:?}", modes.local_modes, modes.special_codes)
    }

    /// Types this.
    pub fn types(&self, text: &str) {
        (&self.keys).write_all(text.as_bytes()).expect("a terminal takes keys");
    }

    /// All that was written to it so far.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("nobody panics with it")).into_owned()
    }
}
