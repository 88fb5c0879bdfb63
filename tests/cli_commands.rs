//! The commands around the server, on the real program: `start` with its lock file, `stop`,
//! `configure`, `client:add`, `client:remove`. What they say, which exit code they leave, and what is
//! in the files afterwards. Redis is never needed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_laravel-echo-server");
const FILE: &str = "laravel-echo-server.json";
const LOCK: &str = "laravel-echo-server.lock";

/// As `init` writes it when every question gets its default.
const DEFAULT_FILE: &str = "{
	\"authHost\": \"http://localhost\",
	\"authEndpoint\": \"/broadcasting/auth\",
	\"clients\": [],
	\"database\": \"redis\",
	\"databaseConfig\": {
		\"redis\": {},
		\"sqlite\": {
			\"databasePath\": \"/database/laravel-echo-server.sqlite\"
		}
	},
	\"devMode\": false,
	\"host\": null,
	\"port\": \"6001\",
	\"protocol\": \"http\",
	\"socketio\": {},
	\"secureOptions\": 67108864,
	\"sslCertPath\": \"\",
	\"sslKeyPath\": \"\",
	\"sslCertChainPath\": \"\",
	\"sslPassphrase\": \"\",
	\"subscribers\": {
		\"http\": true,
		\"redis\": true
	},
	\"apiOriginAllow\": {
		\"allowCors\": false,
		\"allowOrigin\": \"\",
		\"allowMethods\": \"\",
		\"allowHeaders\": \"\"
	}
}";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With a configuration that can be started.
    fn ready() -> Self {
        let place = Self::new();
        place.write(
            FILE,
            &json!({
                "host": "127.0.0.1", "port": 0, "clients": [{ "appId": "a", "key": "k" }], "shards": 1,
                "databaseConfig": { "redis": { "path": "/nonexistent/redis.sock" } },
            })
            .to_string(),
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(self.0.path())
            .env_clear()
            .env("LARAVEL_ECHO_SERVER_LOG_FORMAT", "text")
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments).output().unwrap()
    }

    /// Runs it with these lines on standard input.
    fn answer(&self, arguments: &[&str], lines: &str) -> Output {
        let mut command = self.program(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.program(&[&["start"], arguments].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !said.contains("Server ready!") {
            assert_ne!(lines.read_line(&mut said).unwrap(), 0, "{said}");
        }
        Running { child, said, lines }
    }
}

struct Running {
    child: Child,
    said: String,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap().success());
    }

    /// The exit code, once it has ended.
    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn says(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), (stdout, stderr));
    assert_eq!(output.status.code(), Some(code));
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lock_of(pid: u32) -> String {
    format!("{{\n\t\"process\": {pid}\n}}")
}

#[test]
fn a_server_is_stopped_by_its_lock_file() {
    let place = Place::ready();
    let mut server = place.start(&[]);
    assert_eq!(place.json(LOCK)["process"], server.pid());
    let second = place.run(&["start"]);
    assert_eq!(stdout(&second), "");
    let expected =
        "Error: There is already a server running! Use the option '--force' to stop it and start another one. ";
    assert!(stderr(&second).starts_with(expected), "{}", stderr(&second));
    assert_eq!(second.status.code(), Some(1));
    // The one that runs has heard nothing of it.
    assert_eq!(place.json(LOCK)["process"], server.pid());

    says(&place.run(&["stop"]), 0, "Closed the running server.\n", "");
    assert_eq!(server.child.try_wait().unwrap().unwrap().code(), Some(0));
    assert!(!place.path(LOCK).exists());
    let again = place.run(&["stop"]);
    assert!(stdout(&again).starts_with("Error: Could not find any lock file."), "{}", stdout(&again));
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(server.code(), Some(0));
}

#[test]
fn force_replaces_the_one_that_runs() {
    let place = Place::ready();
    let mut first = place.start(&[]);
    let second = place.start(&["--force"]);
    assert_eq!(first.code(), Some(0));
    let expected = format!("Warning: Closing process {} because you used the '--force' option.\n", first.pid());
    assert!(second.said.starts_with(&expected), "{}", second.said);
    assert_eq!(place.json(LOCK)["process"], second.pid());
}

/// After a crash, the number may belong to nobody, to somebody else, or to the new server itself.
#[test]
fn a_lock_file_that_was_left_behind_stops_nobody() {
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    for pid in [2_000_000_000, 1, bystander.id()] {
        let place = Place::ready();
        place.write(LOCK, &lock_of(pid));
        let server = place.start(&["--force"]);
        assert!(!server.said.contains("Closing process"), "{}", server.said);
        assert_eq!(place.json(LOCK)["process"], server.pid());
        drop(server);
        // Ended with SIGKILL, it has left its own.
        assert!(place.path(LOCK).exists());
        says(&place.run(&["stop"]), 0, "No running servers to close.\n", "");
        assert!(!place.path(LOCK).exists());
    }
    assert_eq!(bystander.try_wait().unwrap(), None, "it was none of our business");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

/// Another instance has by now the number that this one had before the machine was restarted.
#[test]
fn a_server_with_another_configuration_is_not_this_one() {
    let (other, place) = (Place::ready(), Place::ready());
    let mut running = other.start(&[]);
    place.write(LOCK, &lock_of(running.pid()));
    says(&place.run(&["stop"]), 0, "No running servers to close.\n", "");
    place.write(LOCK, &lock_of(running.pid()));
    let server = place.start(&["--force"]);
    assert_eq!(running.child.try_wait().unwrap(), None);
    drop(server);
}

#[test]
fn a_lock_file_that_is_none() {
    let place = Place::ready();
    place.write(LOCK, "what?");
    let stop = place.run(&["stop"]);
    assert!(stdout(&stop).starts_with("Error: There was a problem reading the lock file."), "{}", stdout(&stop));
    assert_eq!(stop.status.code(), Some(1));
    assert_eq!(place.read(LOCK), "what?");
    let server = place.start(&[]);
    assert_eq!(place.json(LOCK)["process"], server.pid());
}

#[test]
fn the_lock_file_has_the_config_files_name_and_place() {
    let place = Place::ready();
    fs::create_dir(place.path("conf")).unwrap();
    fs::rename(place.path(FILE), place.path("conf/echo.json5")).unwrap();
    let mut server = place.start(&["--dir", "conf", "--config=echo.json5"]);
    assert_eq!(place.json("conf/echo.json5.lock")["process"], server.pid());
    says(&place.run(&["stop", "--dir=conf", "--config", "echo.json5"]), 0, "Closed the running server.\n", "");
    assert_eq!(server.code(), Some(0));
}

#[test]
fn a_server_that_cannot_start_leaves_no_lock_file() {
    let place = Place::ready();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = place.json(FILE);
    config["port"] = busy.local_addr().unwrap().port().into();
    place.write(FILE, &config.to_string());
    let output = place.run(&["start"]);
    assert!(stderr(&output).contains("another laravel-echo-server, has this port open"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
    assert!(!place.path(LOCK).exists());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::ready();
    let mut server = place.start(&[]);
    let port: u16 = server.said.split("on port ").nth(1).unwrap().split('\n').next().unwrap().parse().unwrap();
    // A client that never answers the close frame keeps the server waiting.
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = "GET /app/k?protocol=7 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    client.read_exact(&mut [0; 12]).unwrap();
    server.signal("-TERM");
    let mut line = String::new();
    while !line.contains("SIGTERM: closing 1 connections") {
        line.clear();
        assert_ne!(server.lines.read_line(&mut line).unwrap(), 0);
    }
    server.signal("-INT");
    let mut rest = String::new();
    server.lines.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("SIGINT again: ending at once"), "{rest}");
    assert_eq!(server.code(), Some(1));
}

#[test]
fn dotenv_files_stand_in_for_the_environment() {
    let place = Place::ready();
    fs::create_dir(place.path("conf")).unwrap();
    fs::rename(place.path(FILE), place.path("conf").join(FILE)).unwrap();
    place.write(".env", "ECHO_HOST=127.0.0.1\nLARAVEL_ECHO_SERVER_AUTH_HOST=http://${ECHO_HOST}:81\n");
    place.write(
        "conf/.env",
        "LARAVEL_ECHO_SERVER_AUTH_HOST=http://not.test\nLARAVEL_ECHO_SERVER_REDIS_PREFIX=\"mine_\"\nLARAVEL_ECHO_SERVER_DEBUG=true\n",
    );
    let server = place.start(&["--dir", "conf"]);
    for line in
        ["Starting server in DEV mode...", "Laravel   http://127.0.0.1:81/broadcasting/auth\n", "Prefix    mine_ "]
    {
        assert!(server.said.contains(line), "{line:?} in {}", server.said);
    }
    drop(server);
    // The process' own environment wins, and its empty values count as none, as before.
    let mut command = place.program(&["start", "--dir", "conf"]);
    command.env("LARAVEL_ECHO_SERVER_AUTH_HOST", "nonsense");
    let output = command.output().unwrap();
    assert!(stderr(&output).starts_with(
        "Error: The variable LARAVEL_ECHO_SERVER_AUTH_HOST (of the environment, or in .env) is \"nonsense\""
    ));
}

/// Laravel's own directory is all that a Reverb user needs.
#[test]
fn the_application_s_dotenv_file_is_enough() {
    let place = Place::new();
    place.write(".env", "REVERB_APP_ID=7\nREVERB_APP_KEY=the-key\nREVERB_APP_SECRET=hush\nREVERB_SERVER_HOST=127.0.0.1\nREVERB_SERVER_PORT=0\n");
    let server = place.start(&[]);
    assert!(server.said.contains("   App       7, key the-key; with a secret\n"), "{}", server.said);
    assert!(!server.said.contains("hush"));
}

#[test]
fn init_with_nothing_but_defaults_writes_the_old_file() {
    let place = Place::new();
    let output = place.run(&["init", "--yes"]);
    assert_eq!(place.read(FILE), DEFAULT_FILE);
    assert!(stdout(&output).ends_with("\nConfiguration file saved. Run laravel-echo-server start to run server.\n"));
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
}

#[test]
fn init_with_options_asks_nothing() {
    let place = Place::new();
    let arguments = "configure --yes --config echo.json --dev --port 7001 --database sqlite --auth-host https://a.test \
                     --protocol https --ssl-cert c.pem --ssl-key k.pem --client=shop --cors --cors-methods GET";
    let output = place.run(&arguments.split_whitespace().collect::<Vec<_>>());
    let said = stdout(&output);
    assert!(said.ends_with(
        "\nConfiguration file saved. Run laravel-echo-server start --config=\"echo.json\" to run server.\n"
    ));
    let file = place.json("echo.json");
    let client = &file["clients"][0];
    let (key, secret) = (client["key"].as_str().unwrap(), client["secret"].as_str().unwrap());
    assert!(said.starts_with(&format!("appId: shop\nkey: {key}\nsecret: {secret}\n")), "{said}");
    assert!([key, secret].iter().all(|text| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())));
    let expected = json!([
        true, "7001", "sqlite", "https://a.test", "https", "c.pem", "k.pem",
        { "allowCors": true, "allowOrigin": "http://localhost:80", "allowMethods": "GET", "allowHeaders":
          "Origin, Content-Type, X-Auth-Token, X-Requested-With, Accept, Authorization, X-CSRF-TOKEN, X-Socket-Id" },
    ]);
    let keys = ["devMode", "port", "database", "authHost", "protocol", "sslCertPath", "sslKeyPath", "apiOriginAllow"];
    assert_eq!(Value::from_iter(keys.iter().map(|key| file[key].clone())), expected);
    // A secret is in it.
    assert_eq!(fs::metadata(place.path("echo.json")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn init_asks_the_old_questions_in_the_old_order() {
    let place = Place::new();
    let answers =
        "y\nabc\n7001\n\nlocalhost\nhttp://app.test\nhttps\n/c.pem\n\n/k.pem\nyes\nmaybe\ny\n\nGET\n\necho.json\n";
    let output = place.answer(&["init"], answers);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
    let said = stdout(&output);
    let expected = [
        "Do you want to run this server in development mode?",
        "Which port would you like to serve from?",
        "Which port would you like to serve from?",
        "Which database would you like to use to store presence channel members?",
        "Enter the host of your Laravel authentication server.",
        "Enter the host of your Laravel authentication server.",
        "Will you be serving on http or https?",
        "Enter the path to your SSL cert file.",
        "Enter the path to your SSL key file.",
        "Enter the path to your SSL key file.",
        "Do you want to generate a client ID/Key for HTTP API?",
        "Do you want to setup cross domain access to the API?",
        "Do you want to setup cross domain access to the API?",
        "Specify the URI that may access the API:",
        "Enter the HTTP methods that are allowed for CORS:",
        "Enter the HTTP headers that are allowed for CORS:",
        "What do you want this config to be saved as?",
    ];
    let mut rest = said.as_str();
    for question in expected {
        let at = rest.find(question).unwrap_or_else(|| panic!("{question} in {rest}"));
        rest = &rest[at + question.len()..];
    }
    let file = place.json("echo.json");
    assert_eq!(
        (&file["port"], &file["sslKeyPath"], &file["devMode"]),
        (&"7001".into(), &"/k.pem".into(), &true.into())
    );
    assert_eq!(file["apiOriginAllow"]["allowMethods"], "GET");
    assert_eq!(file["clients"][0]["appId"].as_str().unwrap().len(), 16);
}

/// A folder with a Laravel application in it.
fn with_application() -> Place {
    let place = Place::new();
    place.write(
        ".env",
        "APP_NAME=\"My Shop\"\nAPP_URL=http://shop.test:8000\nBROADCAST_DRIVER=redis\nREDIS_HOST=redis.test\nREDIS_PASSWORD=hush\n",
    );
    fs::create_dir(place.path("config")).unwrap();
    place.write(
        "config/database.php",
        "<?php\nreturn ['redis' => ['options' => ['prefix' => env('REDIS_PREFIX', Str::slug(env('APP_NAME', 'laravel'), '_').'_database_')],\n\
         'default' => ['host' => env('REDIS_HOST', '127.0.0.1'), 'password' => env('REDIS_PASSWORD'), 'port' => env('REDIS_PORT', '6379')]]];\n",
    );
    place
}

#[test]
fn init_proposes_what_the_application_beside_it_says() {
    let place = with_application();
    // Every proposal is taken, the new client too.
    let output = place.answer(&["init"], "\n\n\n\n\n\n\n\n\n");
    let said = stdout(&output);
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)), "{said}");
    let file = place.json(FILE);
    assert_eq!(file["authHost"], "http://shop.test:8000");
    let redis = json!({ "host": "redis.test", "port": "6379", "password": "hush", "keyPrefix": "my_shop_database_" });
    assert_eq!(file["databaseConfig"]["redis"], redis);
    let key = file["clients"][0]["key"].as_str().unwrap();
    for part in [
        "http://shop.test:8000 is from APP_URL in .env.".to_owned(),
        "Redis is at redis.test:6379, with its password, key prefix \"my_shop_database_\" (.env and config/database.php).".to_owned(),
        "1. Start it:\n       laravel-echo-server start\n".to_owned(),
        format!("new Echo({{ broadcaster: 'pusher', key: '{key}', cluster: '',"),
        "wsPort: 6001, forceTLS: false, disableStats: true });".to_owned(),
        "laravel-echo-server doctor\n".to_owned(),
    ] {
        assert!(said.contains(&part), "{part} is not in {said}");
    }
    assert!(!said.contains("hush"), "{said}");
    // There are secrets in it.
    assert_eq!(fs::metadata(place.path(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    // What is proposed need not be taken.
    place.answer(&["init", "--force"], "\n7001\n\nhttps://other.test\nn\n\nn\n\n\n");
    let file = place.json(FILE);
    let taken = [&file["port"], &file["authHost"], &file["databaseConfig"]["redis"], &file["clients"]];
    assert_eq!(taken, [&json!("7001"), &json!("https://other.test"), &json!({}), &json!([])]);
}

#[test]
fn init_proposes_the_applications_own_key() {
    let (place, other) = (with_application(), Place::new());
    let mut env = place.read(".env");
    env.push_str("REVERB_APP_ID=7\nREVERB_APP_KEY=the-key\nREVERB_APP_SECRET=hush-too\nREVERB_HOST=localhost\nREVERB_PORT=8080\n");
    place.write(".env", &env);
    fs::create_dir_all(place.path("app/Providers")).unwrap();
    place.write("app/Providers/B.php", "<?php\nBroadcast::routes(['middleware' => ['auth:sanctum']]);\n");
    // From elsewhere, by its folder.
    let folder = place.0.path().to_str().unwrap();
    let output = other.run(&["init", "--yes", "--app", folder]);
    let said = stdout(&output);
    assert!(said.contains("The application's app key is \"the-key\" (REVERB_APP_KEY in "), "{said}");
    assert!(!said.contains("hush"), "{said}");
    let file = other.json(FILE);
    assert_eq!(file["clients"], json!([{ "appId": "7", "key": "the-key", "secret": "hush-too" }]));
    assert_eq!(file["port"], "8080");
    // Its route takes tokens only, so the browser has to ask this server.
    let said = stdout(&other.answer(&["init", "--force", "--app", folder], "\n\n\n\n\n\n\n\n\n"));
    assert!(
        said.contains("authEndpoint: 'http://' + window.location.hostname + ':8080/broadcasting/auth' });"),
        "{said}"
    );
    let none = other.run(&["init", "--yes", "--app", "/nonexistent"]);
    assert!(stderr(&none).contains("No Laravel application is in /nonexistent"), "{}", stderr(&none));
    assert_eq!(none.status.code(), Some(1));
}

#[test]
fn init_takes_answers_from_a_terminal() {
    let place = Place::new();
    // `script` gives the program a terminal of its own.
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{PROGRAM} init"), "/dev/null"]).current_dir(place.0.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("\n7002\n\n\n\n\n\n\n".as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(place.json(FILE)["port"], "7002");
}

#[test]
fn init_without_anybody_to_answer_fails_and_writes_nothing() {
    let place = Place::new();
    let output = place.run(&["init"]);
    assert!(stderr(&output).contains("Nobody is there to answer."), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0);
}

#[test]
fn init_overwrites_only_when_told_to() {
    let place = Place::new();
    place.write(FILE, "mine");
    let output = place.run(&["init", "--yes"]);
    says(
        &output,
        1,
        "",
        "Error: laravel-echo-server.json is there already and was left as it is; --force overwrites it.\n",
    );
    assert_eq!(place.answer(&["init"], "\n\n\n\n\n\n\n\nn\n").status.code(), Some(1));
    assert_eq!(place.read(FILE), "mine");
    assert_eq!(place.answer(&["init"], "\n\n\n\n\n\n\n\ny\n").status.code(), Some(0));
    assert_eq!(place.read(FILE), DEFAULT_FILE);
    place.write(FILE, "mine");
    assert_eq!(place.run(&["init", "--yes", "--force"]).status.code(), Some(0));
    assert_eq!(place.read(FILE), DEFAULT_FILE);
}

#[test]
fn clients_are_added_to_the_file_that_was_named_and_removed_from_it() {
    let place = Place::new();
    fs::create_dir(place.path("conf")).unwrap();
    let text = DEFAULT_FILE.replace("\"devMode\": false", "\"odd\": 1.50,\n\t\"devMode\": false");
    place.write("conf/echo.json", &text);
    let at = ["--dir", "conf", "--config", "echo.json"];
    let mut command = place.program(&[&["client:add", "7"], &at[..]].concat());
    // The environment is not written into the file.
    let output = command.env("LARAVEL_ECHO_SERVER_REDIS_PASSWORD", "hush").output().unwrap();
    let client = place.json("conf/echo.json")["clients"][0].clone();
    let member = |name: &str| client[name].as_str().unwrap().to_owned();
    let (key, secret) = (member("key"), member("secret"));
    says(&output, 0, &format!("API Client added!\nappId: 7\nkey: {key}\nsecret: {secret}\n"), "");
    assert_eq!((client["appId"].as_str(), key.len()), (Some("7"), 32));
    let list = format!(
        "[\n\t\t{{\n\t\t\t\"appId\": \"7\",\n\t\t\t\"key\": \"{key}\",\n\t\t\t\"secret\": \"{secret}\"\n\t\t}}\n\t]"
    );
    assert_eq!(place.read("conf/echo.json"), text.replace("[]", &list));
    assert!(!place.path(FILE).exists());

    let output = place.run(&[&["client:add", "7"], &at[..]].concat());
    let new_key = place.json("conf/echo.json")["clients"][0]["key"].as_str().unwrap().to_owned();
    says(&output, 0, &format!("API Client updated!\nappId: 7\nkey: {new_key}\n"), "");
    assert_ne!(new_key, key);
    assert_eq!(place.json("conf/echo.json")["clients"][0]["secret"], secret.as_str());

    let output = place.run(&[&["client:add"], &at[..]].concat());
    let id = place.json("conf/echo.json")["clients"][1]["appId"].as_str().unwrap().to_owned();
    assert!(id.len() == 16 && stdout(&output).contains(&format!("\nappId: {id}\n")), "{}", stdout(&output));

    says(&place.run(&[&["client:remove", &id], &at[..]].concat()), 0, &format!("Client removed: {id}\n"), "");
    says(&place.run(&[&["client:remove", "7"], &at[..]].concat()), 0, "Client removed: 7\n", "");
    assert_eq!(place.read("conf/echo.json"), text);
    let output = place.run(&[&["client:remove", "7"], &at[..]].concat());
    says(&output, 1, "", "Error: There is no client with the appId \"7\" in conf/echo.json.\n");
}

#[test]
fn what_cannot_be_a_client_changes_nothing() {
    let place = Place::ready();
    let before = place.read(FILE);
    let output = place.run(&["client:add", "a/b"]);
    assert!(
        stderr(&output).starts_with("Error: Nothing was changed, since the server would not start"),
        "{}",
        stderr(&output)
    );
    assert_eq!((place.read(FILE), output.status.code()), (before, Some(1)));
    assert_eq!(place.run(&["client:remove"]).status.code(), Some(1));
    let missing = place.run(&["client:add", "--config", "no.json"]);
    assert!(stderr(&missing).starts_with("Error: There is no file no.json."), "{}", stderr(&missing));
    place.write("bad.json", "{ \"clients\": [,] }");
    let bad = place.run(&["client:add", "--config", "bad.json"]);
    assert!(stderr(&bad).starts_with("Error: bad.json, line 1, column 15: "), "{}", stderr(&bad));
    assert_eq!(place.read("bad.json"), "{ \"clients\": [,] }");
}

#[test]
fn help_names_the_commands_as_the_old_one_did() {
    let place = Place::new();
    let help = stdout(&place.run(&["--help"]));
    for line in [
        "Usage: laravel-echo-server",
        "Starts the server",
        "Stops the server",
        "Creates a custom config file [alias: init]",
        "Register a client that can make api requests",
        "Remove a registered client",
    ] {
        assert!(help.contains(line), "{line} in {help}");
    }
    let start = stdout(&place.run(&["start", "--help"]));
    assert!(start.contains("If a server is already running, stop it"), "{start}");
}

/// The container's restart: the lock file names the very number that the new server has.
#[test]
fn a_server_that_was_killed_is_not_waited_for() {
    let place = Place::ready();
    let mut server = place.start(&[]);
    server.signal("-KILL");
    assert_eq!(server.child.wait().unwrap().signal(), Some(9));
    let next = place.start(&[]);
    assert_eq!(place.json(LOCK)["process"], next.pid());
}

/// Only the lock file's folder may be unwritable: then there is no lock file, and that is all.
#[test]
fn a_read_only_folder_is_no_obstacle() {
    let place = Place::ready();
    // A folder in the lock file's place cannot be written by anybody, not even by root.
    fs::create_dir(place.path(LOCK)).unwrap();
    let server = place.start(&[]);
    assert!(server.said.contains("Cannot write lock file"), "{}", server.said);
    assert!(Path::new(&place.path(LOCK)).is_dir());
}
