//! The files of an artifact or a quantized checkpoint beside its weights.

use std::path::Path;

use super::named_file::{Content, NamedFile};
use super::plan::Plan;
use crate::artifact::ArtifactError;
use crate::contract::CARD_FILE;
use crate::record::FileRecord;

/// What goes wherever the model in `dir` goes.
pub fn companions(plan: &Plan, dir: &Path) -> Vec<NamedFile> {
    let copied = |name: &String| NamedFile { name: name.clone(), content: Content::Copied(dir.join(name)) };
    plan.copied.iter().map(|file| copied(&file.file)).collect()
}

/// What an artifact of the model in `dir` has beside its graph: what it carries along, and what is made for other runtimes.
pub fn of_artifact(plan: &Plan, dir: &Path) -> Vec<NamedFile> {
    // The card is the last file to be made, of a manifest that knows everything.
    let is_made = |file: &NamedFile| file.name == CARD_FILE || plan.made.iter().any(|made| made.name == file.name);
    companions(plan, dir).into_iter().filter(|file| !is_made(file)).chain(plan.made.iter().cloned()).collect()
}

/// Writes `files` into `folder`; the records of all, in their order.
///
/// # Errors
/// The disk's own; a file that is copied is another than `planned` has under its name.
pub fn write(files: &[NamedFile], planned: &[FileRecord], folder: &Path) -> Result<Vec<FileRecord>, ArtifactError> {
    let records = files.iter().map(|file| file.write(folder)).collect::<Result<Vec<_>, ArtifactError>>()?;
    let is_copied = |file: &NamedFile| matches!(file.content, Content::Copied(_));
    let copied = files.iter().zip(&records).filter(|(file, _)| is_copied(file)).map(|(_, record)| record.clone());
    refuse_changed(planned, &copied.collect::<Vec<_>>())?;
    Ok(records)
}

/// As [`refuse_changed`], of all files that a model has beside its weights: one that is new, or gone, is a change too.
pub fn refuse_other(planned: &[FileRecord], now: &[FileRecord]) -> Result<(), ArtifactError> {
    refuse_changed(planned, now)?;
    let has = |files: &[FileRecord], file: &FileRecord| files.iter().any(|other| other.file == file.file);
    let mut other = planned.iter().filter(|file| !has(now, file)).chain(now.iter().filter(|file| !has(planned, file)));
    other
        .next()
        .map_or(Ok(()), |FileRecord { file, .. }| Err(ArtifactError::Changed { file: file.clone(), how: "has come or gone" }))
}

/// Refuses files that are others than were planned under their names: what was chosen is not for these.
pub fn refuse_changed(planned: &[FileRecord], now: &[FileRecord]) -> Result<(), ArtifactError> {
    let before = |file: &FileRecord| planned.iter().find(|planned| planned.file == file.file);
    let changed = now.iter().find(|file| before(file).is_some_and(|planned| planned != *file));
    changed.map_or(Ok(()), |FileRecord { file, .. }| {
        Err(ArtifactError::Changed { file: file.clone(), how: "the model's has changed" })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_recorded_as_they_were_written() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("b"), "copied").unwrap();
        let copied = NamedFile { name: "b".to_owned(), content: Content::Copied(from.path().join("b")) };
        let files = [NamedFile::made("a", b"made".to_vec()), copied];
        let records = write(&files, &[], to.path()).unwrap();
        for (record, text) in records.iter().zip(["made", "copied"]) {
            assert_eq!(fs::read_to_string(to.path().join(&record.file)).unwrap(), text);
            assert_eq!((record.bytes, &record.blake3), (text.len() as u64, &blake3::hash(text.as_bytes()).to_hex().to_string()));
        }
        assert_eq!(write(&files, &records, to.path()).unwrap(), records);
        for (planned, now) in [(&records[..1], &records[..]), (&records[..], &records[..1])] {
            let error = refuse_other(planned, now).unwrap_err().to_string();
            assert_eq!(error, "b: has come or gone since the work began; run the command again");
        }
        refuse_other(&records, &records).unwrap();
        fs::write(from.path().join("b"), "another").unwrap();
        let error = write(&files, &records, to.path()).unwrap_err().to_string();
        assert_eq!(error, "b: the model's has changed since the work began; run the command again");
        fs::remove_file(from.path().join("b")).unwrap();
        let error = write(&files, &records, to.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("b: cannot be copied to {}", to.path().join("b").display())), "{error}");
    }
}
