//! The power fails at the moment a command returns: a file system on a loop device, whose bytes are copied just then. Where this
//! process may mount one it must; elsewhere the tests say that they did not run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{ASK, EXPORT, Place, contents, copied, succeed};

/// A mounted file system, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, at: PathBuf) -> Result<Mounted, String> {
        fs::create_dir_all(&at).expect("the place is ours");
        done(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at).output())?;
        Ok(Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

fn done(output: std::io::Result<Output>) -> Result<(), String> {
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a file system has after `command` in it has returned and the power has failed: with what lay in it `before`.
fn after_the_cut(place: &Place, before: Option<&Path>, command: &[&str]) -> Result<[Mounted; 2], String> {
    let [image, cut] = ["image", "cut"].map(|name| place.0.path().join(name));
    let file = fs::File::create(&image).and_then(|file| file.set_len(64 << 20));
    file.expect("the place is ours");
    done(Command::new("mkfs.ext4").arg("-q").arg(&image).output())?;
    let disk = Mounted::new(&image, place.0.path().join("work"))?;
    if let Some(before) = before {
        copied(before, &disk.0);
    }
    done(Command::new("sync").arg("-f").arg(&disk.0).output())?;
    succeed(&place.qonnx(command, None));
    done(Command::new("cp").args(["--sparse=always"]).args([&image, &cut]).output())?;
    let after = Mounted::new(&cut, place.0.path().join("after"))?;
    Ok([disk, after])
}

/// Whether the system lets this process mount a loop device.
fn may_mount() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    held.is_some_and(|held| held & SYS_ADMIN != 0) && Path::new("/dev/loop-control").exists()
}

/// What a folder has but what is hidden: clearing away is nothing that has to be on the disk.
fn finished(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    contents(folder).into_iter().filter(|(name, _)| !name.starts_with('.')).collect()
}

#[track_caller]
fn expect_the_same(name: &str, before: Option<&Path>, place: &Place, command: &[&str]) {
    if !may_mount() {
        // Not by a macro, whose words are shown only where a test fails.
        let said = "NOT RUN: the tests of a power cut; they need root, CAP_SYS_ADMIN and loop devices\n";
        std::io::stderr().write_all(said.as_bytes()).expect("stderr is there");
        return;
    }
    match after_the_cut(place, before, command) {
        Err(why) => panic!("this process may mount, and a file system on a loop device cannot be had: {why}"),
        Ok([disk, after]) => {
            let [wanted, got] = [&disk, &after].map(|mounted| finished(&mounted.0.join(name)));
            assert!(!wanted.is_empty());
            assert!(wanted == got, "{:?} became {:?}", wanted.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
        }
    }
}

#[test]
fn an_artifact_outlives_a_power_cut() {
    for flags in [&[][..], &["--method", "gptq", "--group-size", "32", "--calibration", "@set.json"]] {
        let place = Place::new();
        let command = [&EXPORT[..], &["@work/out"], flags].concat();
        expect_the_same("out", None, &place, &command);
    }
}

#[test]
fn an_artifact_that_took_the_place_of_another_does_too() {
    let place = Place::new();
    succeed(&place.qonnx(&["export", "@model", "--bits", "8", "--dtype", "f32", "-o", "@out"], None));
    let command = [&EXPORT[..], &["@work/out", "--overwrite"]].concat();
    expect_the_same("out", Some(&place.0.path().join("out")), &place, &command);
}

#[test]
fn a_record_and_its_answers_outlive_a_power_cut() {
    let place = Place::new();
    expect_the_same("results", None, &place, &[&["run", "int8_rtn", "--baseline", "int8_rtn"], &ASK[..]].concat());
}

#[test]
fn a_report_outlives_a_power_cut() {
    let place = Place::new();
    let ask: Vec<&str> = ASK.iter().map(|word| if *word == "@work/results" { "@results" } else { word }).collect();
    succeed(&place.qonnx(&[&["run", "int8_rtn", "--baseline", "int8_rtn"], &ask[..]].concat(), None));
    let before = place.0.path().join("results");
    expect_the_same("report", Some(&before), &place, &["report", "@work/results", "-o", "@work/report"]);
}
