//! One connection. It is worked on only while something is asked of it, so no task runs
//! beside the destination's own.

use std::{fmt, pin::Pin};

use futures_util::future::poll_immediate;
use tokio::time::timeout;
use tokio_postgres::{
    Client, Error, NoTls,
    config::{SslMode, TargetSessionAttrs},
    types::{ToSql, Type},
};

use super::{
    config::{Config, Server},
    rows::Columns,
    schema::Schema,
    tls::Connector,
    verdict::Verdict,
};

/// Moves bytes between the socket and the client.
type Driver = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// How long a silent connection is kept before the other end is asked whether it is there.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) struct Session {
    client: Client,
    driver: Driver,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Connects to the first server that takes writes, and makes the table if that is
    /// wanted and there is none.
    pub(super) async fn begin(config: &Config, schema: &Schema) -> Result<Self, Verdict> {
        let mut session = Self::connect(config).await?;
        // An answer promises that the rows are on disk. What the server may still do alone
        // is bounded, for the gateway has given up by then.
        let prepare = format!(
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off'; \
             SET statement_timeout = {}; SET TimeZone = 'UTC'",
            // Sooner than we give up, so that we hear of it.
            config.timeout.mul_f64(0.9).as_millis().max(1)
        );
        session
            .run(async |client| client.batch_execute(&prepare).await)
            .await?;
        if let Some(create) = schema.create() {
            session
                .run(async |client| {
                    let name = schema.table();
                    let names: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
                    let found = client
                        .query_typed("SELECT to_regclass($1) IS NOT NULL", &names)
                        .await?;
                    match found.first().is_some_and(|row| row.get(0)) {
                        true => Ok(()),
                        false => client.batch_execute(create).await,
                    }
                })
                .await?;
        }
        Ok(session)
    }

    /// Tries one server after the other, each for `connect_timeout`: one that accepts and
    /// says nothing must not hide the others.
    async fn connect(config: &Config) -> Result<Self, Verdict> {
        let mut reasons = Vec::new();
        let mut needs_person = false;
        for server in &config.servers {
            let connecting = Box::pin(Self::connect_to(config, server));
            let verdict = match timeout(config.connect_timeout, connecting).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(verdict)) => verdict,
                Err(_) => Verdict::Unavailable("no answer in time".to_owned()),
            };
            needs_person |= matches!(verdict, Verdict::Misconfigured(_));
            let reason = verdict.into_reason();
            reasons.push(match config.servers.len() {
                1 => reason,
                _ => format!("{}:{}: {reason}", server.host, server.port),
            });
        }
        let reason = reasons.join("; ");
        Err(match needs_person {
            true => Verdict::Misconfigured(reason),
            false => Verdict::Unavailable(reason),
        })
    }

    async fn connect_to(config: &Config, server: &Server) -> Result<Self, Verdict> {
        let mut parameters = tokio_postgres::Config::new();
        parameters
            .host(&server.host)
            .port(server.port)
            .dbname(&config.database)
            .user(&config.user)
            .application_name("penstock")
            .keepalives_idle(KEEP_ALIVE)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if let Some(password) = &config.password {
            parameters.password(password.expose());
        }
        let failed = |error| Verdict::of_beginning(&error);
        if let Some(files) = &config.tls {
            parameters.ssl_mode(SslMode::Require);
            let tls = Connector::new(files).map_err(Verdict::Misconfigured)?;
            let (client, connection) = parameters.connect(tls).await.map_err(failed)?;
            let driver: Driver = Box::pin(connection);
            return Ok(Self { client, driver });
        }
        parameters.ssl_mode(SslMode::Disable);
        let (client, connection) = parameters.connect(NoTls).await.map_err(failed)?;
        let driver: Driver = Box::pin(connection);
        Ok(Self { client, driver })
    }

    /// The connection, unless it ended while nobody looked.
    pub(super) async fn alive(mut self) -> Option<Self> {
        match poll_immediate(&mut self.driver).await {
            Some(_) => None,
            None => Some(self),
        }
    }

    /// Inserts rows, all or none.
    pub(super) async fn insert(&mut self, insert: &str, columns: &Columns) -> Result<(), Verdict> {
        let columns: Vec<(&(dyn ToSql + Sync), Type)> = columns
            .iter()
            .map(|(column, kind)| (&**column as &(dyn ToSql + Sync), kind.clone()))
            .collect();
        let (client, driver) = (&self.client, &mut self.driver);
        let inserted = drive(driver, client.execute_typed(insert, &columns)).await;
        inserted.map(drop).map_err(|end| end.verdict(Verdict::of))
    }

    /// Asks something before rows are sent.
    async fn run<T>(
        &mut self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Verdict> {
        let (client, driver) = (&self.client, &mut self.driver);
        let answer = drive(driver, ask(client)).await;
        answer.map_err(|end| end.verdict(Verdict::of_beginning))
    }

    /// Tells the server that this is the end.
    pub(super) async fn end(self) {
        let Self { client, driver } = self;
        drop(client);
        if let Err(error) = driver.await {
            tracing::debug!(%error, "the connection did not end in order");
        }
    }
}

/// Why there is no answer.
enum End {
    Failed(Error),
    /// The server closed the connection without a word.
    Closed,
}

impl End {
    fn verdict(self, of: fn(&Error) -> Verdict) -> Verdict {
        match self {
            Self::Failed(error) => of(&error),
            Self::Closed => Verdict::Unavailable("the server closed the connection".to_owned()),
        }
    }
}

/// Works on the connection until there is an answer.
async fn drive<T>(
    driver: &mut Driver,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, End> {
    let mut answer = Box::pin(answer);
    tokio::select! {
        answered = &mut answer => answered.map_err(End::Failed),
        ended = driver => {
            // The answer may have come before the end. If not, none will: the client keeps
            // what it would come by.
            match (poll_immediate(&mut answer).await, ended) {
                (Some(Ok(answered)), _) => Ok(answered),
                (_, Err(error)) => Err(End::Failed(error)),
                (Some(Err(error)), Ok(())) => Err(End::Failed(error)),
                (None, Ok(())) => Err(End::Closed),
            }
        }
    }
}
