//! A new box, set up by somebody with nothing but its serial console, up to the test message.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking and says how long it took")]

use boot::{
    image::Image,
    machine::Machine,
    operator::{Answers, answer},
    prepared::{BOOT, is_good},
    surroundings::{HOST, Surroundings, postern, wait_until},
};
use lab::scene::RECIPIENT;
use std::fs;

/// Where the console's bytes are left, for pictures of other screens than the first.
const LOG: &str = "wizard.serial.log";

#[test]
#[ignore = "five minutes: make boot-test"]
fn a_new_box_is_set_up_with_keys_alone_and_its_test_message_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::from_environment().unwrap();
    let around = Surroundings::start(&folder.path().join("lab")).unwrap();
    let mut machine = Machine::new(&folder.path().join("machine"), &image).unwrap();
    machine.power_on().unwrap();
    let serial = machine.serial();
    serial.wait_for_screen(&["Enter set up"], BOOT).unwrap();
    // What RAUC says of the slots comes last.
    serial.wait_for_screen(&["(runs)"], BOOT).unwrap();
    let first = serial.screen().lines();
    println!("{}", first.join("\n"));
    assert!(first.iter().any(|line| line.contains("DEVELOPMENT")), "a development image says so");
    keep_log(&machine, &image);
    let picture = serial.screen().picture("The first screen of a new box on its serial console");
    fs::write(image.file("..").join("first-screen.svg"), picture).unwrap();

    let layout = &around.lab.layout;
    let answers = Answers {
        host: "postern.clinic.example".to_owned(),
        next_hop: format!("{HOST}:{}", layout.sink().port()),
        domain: "clinic.example".to_owned(),
        internal: format!("{HOST}:{}", layout.internal().port()),
        password: "Nadel Regen Ofen Wiese 41".to_owned(),
        recipient: RECIPIENT.to_owned(),
    };
    let words = answer(&machine, &answers).unwrap_or_else(|error| panic!("{error}"));
    serial.wait_for_screen(&["The test message was taken by the next hop"], BOOT).unwrap();
    println!("{}", serial.screen().lines().join("\n"));
    serial.keyboard().unwrap().press("\x1b").unwrap();
    serial.wait_for_screen(&["open; mail flows"], BOOT).unwrap();
    keep_log(&machine, &image);

    // It arrived, and so does what the house's server hands in now; the words are those of the box.
    let sent = around.send(&machine, "see you at noon").unwrap();
    around.wait_until_relayed(&[sent]).unwrap();
    assert!(around.relayed().unwrap().len() >= 2, "the test message and this one");
    let keys = postern(&machine, &["keys", "status"], "").unwrap();
    assert!(keys.contains("confirmed"), "{keys}");
    let settings = postern(&machine, &["settings", "show"], "").unwrap();
    assert!(settings.contains("postern.clinic.example") && settings.contains("name = \"admin\""), "{settings}");
    assert!(!settings.contains(&answers.password) && words.split(' ').count() == 24, "{settings}");
    wait_until(&machine, &["update", "status"], BOOT, |report| is_good(report, "a")).unwrap();

    // A password is asked for from now on.
    machine.power_cut();
    machine.power_on().unwrap();
    machine.wait_for_greeting(BOOT).unwrap();
    machine.serial().wait_for_screen(&["Enter sign in"], BOOT).unwrap();
}

/// Leaves the bytes of the console beside the image.
fn keep_log(machine: &Machine, image: &Image) {
    fs::copy(machine.file("serial.log"), image.file("..").join(LOG)).unwrap();
}
