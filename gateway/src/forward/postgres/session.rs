//! One connection. It is worked on only while something is asked of it, so no task runs
//! beside the destination's own.

use std::{fmt, pin::Pin};

use futures_util::future::poll_immediate;
use tokio_postgres::{
    Client, Error, NoTls,
    config::{SslMode, TargetSessionAttrs},
    types::{ToSql, Type},
};

use super::{config::Config, rows::Columns, schema::Schema, tls::Connector, verdict::Verdict};

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
            config.timeout.as_millis()
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

    async fn connect(config: &Config) -> Result<Self, Verdict> {
        let mut parameters = tokio_postgres::Config::new();
        parameters
            .dbname(&config.database)
            .user(&config.user)
            .application_name("penstock")
            .connect_timeout(config.connect_timeout)
            .keepalives_idle(KEEP_ALIVE)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        for server in &config.servers {
            parameters.host(&server.host).port(server.port);
        }
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
        inserted.map(drop).map_err(|error| Verdict::of(&error))
    }

    /// Asks something before rows are sent.
    async fn run<T>(
        &mut self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Verdict> {
        let (client, driver) = (&self.client, &mut self.driver);
        let answer = drive(driver, ask(client)).await;
        answer.map_err(|error| Verdict::of_beginning(&error))
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

/// Works on the connection until there is an answer.
async fn drive<T>(
    driver: &mut Driver,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut answer = Box::pin(answer);
    tokio::select! {
        answered = &mut answer => answered,
        ended = driver => {
            // The answer may have come before the end. If not, the end says more.
            let answered = answer.await;
            match (answered, ended) {
                (Err(_), Err(error)) => Err(error),
                (answered, _) => answered,
            }
        }
    }
}
