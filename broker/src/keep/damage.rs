//! What the writer does when a commit fails for another reason than a full disk: a damaged
//! file is set aside and another begun; anything else may fail a few times in a row.

use std::path::Path;

use rusqlite::Connection;

use super::{
    Error, Refused,
    job::{Job, Work},
    schema,
    writer::{FAILURES_MAX, Writer},
};

impl Writer {
    /// Takes a commit back that failed, and not for want of room.
    pub(super) fn went_wrong(
        &mut self,
        error: rusqlite::Error,
        batch: Vec<Job>,
    ) -> Result<(), Error> {
        self.state.roll_back(&self.shared);
        if schema::means_damage(&error) {
            tracing::error!(%error, "broker.db is damaged");
            self.replace_file()?;
            for job in batch {
                let answer = match &job.work {
                    work if work.is_of_a_session() => Err(Refused::Gone),
                    // Its place in the file is gone.
                    Work::Will(op, _) => self.owe_of(op, None),
                    // To be asked again.
                    _ => Err(Refused::Full),
                };
                // Whoever no longer waits does not need to know.
                drop(job.reply.send(answer));
            }
            return Ok(());
        }
        tracing::error!(%error, "failed to commit to broker.db");
        for job in batch {
            match &job.work {
                Work::Leave(leave) => self.left_unsaved(leave),
                // Everybody who is connected sees it all the same. To write it twice is
                // to write it once.
                Work::Will(op, will) => drop(job.reply.send(self.owe_of(op, *will))),
                // Dropped: whoever waits hears that nothing is known.
                _ => {}
            }
        }
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            return Err(error.into());
        }
        Ok(())
    }

    /// Sets the damaged file aside and begins another. What is retained is in
    /// memory and goes into it; sessions are gone, and those connected are ended.
    pub(super) fn replace_file(&mut self) -> Result<(), Error> {
        self.replaced += 1;
        let Some(dir) = self
            .shared
            .config
            .dir
            .clone()
            .filter(|_| self.replaced <= FAILURES_MAX)
        else {
            return Err(Error::Sqlite(schema::damaged(
                "damaged again and again".into(),
            )));
        };
        let memory = Connection::open_in_memory()?;
        drop(std::mem::replace(&mut self.connection, memory));
        let opened = schema::replace(
            &dir,
            self.shared.config.database_bytes_max(),
            &self.shared.config.seal,
        )?;
        self.connection = opened.connection;
        if let Some(path) = opened.set_aside {
            self.report_damage(&path);
        }
        // Tasks of sessions that are gone may still ask for them by their numbers.
        self.connection.execute(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('sessions', ?1)",
            [self.last_session],
        )?;
        let retained = self.shared.retained.all();
        self.state.end_all();
        self.shared.clear();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        self.state.begin();
        for message in retained {
            self.retain(&message, None)?;
        }
        self.connection.execute_batch("COMMIT")?;
        self.state.committed(&self.shared);
        Ok(())
    }

    pub(super) fn report_damage(&self, path: &Path) {
        self.shared.counters.keep_set_aside.add(1);
        tracing::error!(
            file = %path.display(),
            "a damaged broker.db was set aside; persistent sessions begin anew"
        );
    }
}
