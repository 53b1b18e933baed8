//! Sends scripts to a server or a cluster, and waits for replicas if that is asked.

use std::time::Duration;

use redis::aio::ConnectionManager;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::time::{sleep, timeout};

use crate::failure::Failed;
use crate::keys::Keys;
use crate::scripts::Script;

/// The pauses before a script is sent again over another connection.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];

/// A connection. Clones share it, and it connects anew by itself.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) server: Server,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    pub(crate) durable: Durable,
}

#[derive(Clone)]
pub(crate) enum Server {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

/// What a write has to reach before it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Durable {
    /// So many replicas have it in memory.
    pub(crate) replicas: u32,
    /// It is in the append-only file here, and in that of so many replicas.
    pub(crate) files: Option<u32>,
    /// For how long the server waits.
    pub(crate) patience: Duration,
}

/// The arguments of a script after its keys.
pub(crate) type Arguments = Vec<Vec<u8>>;

/// An argument from its parts.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        vec![$($crate::connection::bytes($argument)),*]
    };
}
pub(crate) use arguments;

pub(crate) fn bytes(argument: impl AsRef<[u8]>) -> Vec<u8> {
    argument.as_ref().to_vec()
}

impl Connection {
    /// Runs a script that changes nothing, or nothing that has to last.
    pub(crate) async fn read(&self, script: &Script, keys: &Keys, arguments: &Arguments) -> Result<Value, Failed> {
        self.run(script, keys, arguments, Durable::default()).await
    }

    /// Runs a script that writes.
    pub(crate) async fn write(&self, script: &Script, keys: &Keys, arguments: &Arguments) -> Result<Value, Failed> {
        self.run(script, keys, arguments, self.durable).await
    }

    async fn run(
        &self,
        script: &Script,
        keys: &Keys,
        arguments: &Arguments,
        durable: Durable,
    ) -> Result<Value, Failed> {
        let patience = self.timeout.saturating_add(if durable.is_needed() { durable.patience } else { Duration::ZERO });
        // A script that is sent twice has the effect of one. So it is sent again if the connection is lost: the next one may
        // be to a server that has been started anew.
        let mut is_in_doubt = false;
        let answered = async {
            let mut pauses = PAUSES.into_iter();
            loop {
                match (self.evaluate(script, keys, arguments, durable).await, pauses.next()) {
                    (Err(error), Some(pause)) if error.is_io_error() && !error.is_timeout() => {
                        // Where no connection was made, nothing was sent.
                        is_in_doubt |= !error.is_connection_refusal();
                        sleep(pause).await;
                    }
                    (sent, _) => break sent,
                }
            }
        };
        let answered =
            timeout(patience, answered).await.map_err(|_| Failed::unknown("no answer from Redis in time"))?;
        let mut values = answered.map_err(|error| Failed::from(error).after(is_in_doubt))?;
        let mut reached = values.split_off(1).into_iter();
        let value = values.pop().ok_or_else(Failed::strange)?;
        durable.check(&mut reached)?;
        Ok(value)
    }

    /// Sends a script by its digest, or as a text to a server that does not know it.
    async fn evaluate(
        &self,
        script: &Script,
        keys: &Keys,
        arguments: &Arguments,
        durable: Durable,
    ) -> Result<Vec<Value>, RedisError> {
        let mut evaluate = redis::cmd("EVALSHA");
        evaluate.arg(&script.digest);
        match self.send(with(evaluate, keys, arguments), keys, durable).await {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                let mut evaluate = redis::cmd("EVAL");
                evaluate.arg(script.text);
                self.send(with(evaluate, keys, arguments), keys, durable).await
            }
            sent => sent,
        }
    }

    /// Sends a command on the keys of one record, and what waits for it on the same connection. The first answer is never
    /// an error.
    async fn send(&self, command: Cmd, keys: &Keys, durable: Durable) -> Result<Vec<Value>, RedisError> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(command);
        durable.add_to(&mut pipeline);
        let count = pipeline.len();
        let values = match self.server.clone() {
            Server::Single(mut manager) => manager.send_packed_commands(&pipeline, 0, count).await?,
            Server::Cluster(mut cluster) => {
                let route = Route::with_key(&keys.record, SlotAddr::Master);
                cluster.route_pipeline(pipeline, 0, count, SingleNodeRoutingInfo::SpecificNode(route)).await?
            }
        };
        // What waits for a write can fail after the write. That is no answer of the script.
        let mut values = values.into_iter();
        let answer = values.next().map(Value::extract_error).transpose()?;
        Ok(answer.into_iter().chain(values).collect())
    }

    /// Asks every server, masters and replicas.
    pub(crate) async fn ask_all(&self, command: &Cmd) -> Result<Vec<(Option<Node>, Value)>, Failed> {
        self.fan_out(command, MultipleNodeRoutingInfo::AllNodes).await
    }

    /// Asks every master.
    pub(crate) async fn ask_masters(&self, command: &Cmd) -> Result<Vec<(Option<Node>, Value)>, Failed> {
        self.fan_out(command, MultipleNodeRoutingInfo::AllMasters).await
    }

    async fn fan_out(
        &self,
        command: &Cmd,
        nodes: MultipleNodeRoutingInfo,
    ) -> Result<Vec<(Option<Node>, Value)>, Failed> {
        let answer = match self.server.clone() {
            Server::Single(_) => return Ok(vec![(None, self.ask(None, command).await?)]),
            Server::Cluster(mut cluster) => {
                let routing = RoutingInfo::MultiNode((nodes, None));
                timeout(self.timeout, cluster.route_command(command.clone(), routing)).await
            }
        };
        let Value::Map(answers) = answer.map_err(|_| Failed::unknown("no answer from Redis in time"))?? else {
            return Err(Failed::strange());
        };
        let node = |(address, value): (Value, Value)| {
            let address: String = redis::from_redis_value(address)?;
            let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
            Ok((Some(Node { host: host.to_owned(), port: port.parse().unwrap_or(6379) }), value.extract_error()?))
        };
        answers.into_iter().map(node).collect::<Result<_, RedisError>>().map_err(Failed::from)
    }

    /// Asks one server.
    pub(crate) async fn ask(&self, node: Option<&Node>, command: &Cmd) -> Result<Value, Failed> {
        let answer = async {
            match (self.server.clone(), node) {
                (Server::Single(mut manager), _) => manager.send_packed_command(command).await,
                (Server::Cluster(mut cluster), Some(Node { host, port })) => {
                    let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                    cluster.route_command(command.clone(), RoutingInfo::SingleNode(node)).await
                }
                (Server::Cluster(mut cluster), None) => {
                    let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
                    cluster.route_command(command.clone(), any).await
                }
            }
        };
        let answer =
            timeout(self.timeout, answer).await.map_err(|_| Failed::unknown("no answer from Redis in time"))?;
        Ok(answer?.extract_error()?)
    }

    /// Sends a command by its key.
    pub(crate) async fn ask_by_key(&self, command: &Cmd) -> Result<Value, Failed> {
        let answer = async {
            match self.server.clone() {
                Server::Single(mut manager) => command.query_async(&mut manager).await,
                Server::Cluster(mut cluster) => command.query_async(&mut cluster).await,
            }
        };
        Ok(timeout(self.timeout, answer).await.map_err(|_| Failed::unknown("no answer from Redis in time"))??)
    }
}

/// A server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    host: String,
    port: u16,
}

fn with(mut command: Cmd, keys: &Keys, arguments: &Arguments) -> Cmd {
    command.arg(3).arg(&keys.record).arg(&keys.reply).arg(&keys.index);
    for argument in arguments {
        command.arg(argument.as_slice());
    }
    command
}

impl Durable {
    fn is_needed(self) -> bool {
        self.replicas > 0 || self.files.is_some()
    }

    fn add_to(self, pipeline: &mut Pipeline) {
        let patience = self.patience.as_millis();
        let patience = u64::try_from(patience).unwrap_or(u64::MAX).max(1);
        if self.replicas > 0 {
            pipeline.cmd("WAIT").arg(self.replicas).arg(patience);
        }
        if let Some(replicas) = self.files {
            pipeline.cmd("WAITAOF").arg(1).arg(replicas).arg(patience);
        }
    }

    /// Whether the write has reached what it has to. If it has not, it may be lost: nobody may count on it.
    fn check(self, reached: &mut impl Iterator<Item = Value>) -> Result<(), Failed> {
        // The script has written by now, whatever is answered to the question how far its write has come.
        let unknown = |error: RedisError| Failed::from(error).after(true);
        let mut next = || {
            let value = reached.next().ok_or_else(|| Failed::strange().after(true))?;
            value.extract_error().map_err(unknown)
        };
        if self.replicas > 0 {
            let replicas: u32 = redis::from_redis_value(next()?).map_err(|error| unknown(error.into()))?;
            if replicas < self.replicas {
                return Err(Failed::unknown("too few replicas have the write"));
            }
        }
        if let Some(wanted) = self.files {
            let (here, replicas): (u32, u32) =
                redis::from_redis_value(next()?).map_err(|error| unknown(error.into()))?;
            if here < 1 || replicas < wanted {
                return Err(Failed::unknown("the write is in too few append-only files"));
            }
        }
        Ok(())
    }
}
