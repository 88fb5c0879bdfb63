//! `--url`: the way that browsers take, through a reverse proxy or none: TLS, and WebSockets at both paths.

use url::Url;

use super::clock::now_millis;
use super::finding::Finding;
use super::handshake::{self, Answer};
use super::{Subject, certificate, port};

/// What came back; nothing without `--url`.
#[derive(Debug, Default)]
pub(super) struct Facts(Option<Answers>);

#[derive(Debug)]
struct Answers {
    url: Url,
    /// At `/app/{key}`; `None`: no app is configured.
    app: Option<Answer>,
    /// At `/socket.io`.
    socketio: Answer,
}

pub(super) async fn probe(subject: &Subject, url: Option<&Url>) -> Facts {
    let Some(url) = url else { return Facts::default() };
    let base = url.as_str();
    let (app_url, socketio_url) = (port::client_url(subject, base), port::socketio_url(subject, base));
    let has_app = app_url != socketio_url;
    let (app, socketio) = tokio::join!(
        async { if has_app { Some(handshake::shake(&app_url, false).await) } else { None } },
        handshake::shake(&socketio_url, false)
    );
    Facts(Some(Answers { url: url.clone(), app, socketio }))
}

pub(super) fn judge(subject: &Subject, facts: &Facts) -> Vec<Finding> {
    let Some(Answers { url, app, socketio }) = &facts.0 else { return Vec::new() };
    let first = app.as_ref().unwrap_or(socketio);
    if let Some(failure) = &first.failure {
        return vec![unreachable(url, failure, first.is_tls)];
    }
    let mut findings = vec![Finding::ok("proxy.reach", format!("{url} answers"))];
    if let Some(der) = &first.certificate {
        findings.extend(certificate::dates("proxy.tls", der, now_millis() / 1000));
    }
    findings.extend(app.as_ref().map(|answer| path(subject, url, "proxy.app", "/app/", answer)));
    let socketio_path = format!("{}/", subject.config.socketio.path);
    let finding = path(subject, url, "proxy.socketio", &socketio_path, socketio);
    // Whoever has no clients of Socket.IO needs no such path.
    let is_no_matter = app.is_some() && finding.level == super::Level::Problem;
    findings.push(if is_no_matter { Finding { level: super::Level::Warning, ..finding } } else { finding });
    findings
}

fn unreachable(url: &Url, failure: &str, is_tls: bool) -> Finding {
    if is_tls {
        return Finding::problem("proxy.tls", format!("There is no TLS with {url}: {failure}"))
            .why("Browsers refuse the connection as well.")
            .fix("Renew the certificate, or have one made for this name; if the port speaks no TLS, the URL begins with http://.");
    }
    Finding::problem("proxy.reach", format!("{url} cannot be reached from here: {failure}"))
        .why("Browsers elsewhere may see another network than this machine: a name service or a firewall may be in the way.")
        .fix("See that the web server runs, and that the name leads to it.")
}

fn path(subject: &Subject, url: &Url, id: &'static str, path: &str, answer: &Answer) -> Finding {
    let shown = format!("{}{path}", url.as_str().trim_end_matches('/'));
    if let Some(failure) = &answer.failure {
        return Finding::problem(id, format!("{shown} does not answer: {failure}"));
    }
    let status = answer.status.unwrap_or_default();
    let local = subject.local_url();
    let location = |finding: Finding| {
        let location = format!(
            "location {path} {{\n    proxy_pass {local};\n    proxy_http_version 1.1;\n    proxy_set_header Upgrade $http_upgrade;\n    proxy_set_header Connection \"upgrade\";\n    proxy_set_header Host $http_host;\n    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    proxy_set_header X-Forwarded-Proto $scheme;\n}}"
        );
        finding.line("nginx, in the server { } block of this name", location)
    };
    match status {
        101 => match answer.first.as_deref() {
            Some(first) if first.contains("pusher:connection_established") || first.starts_with("0{") => Finding::ok(id, format!("WebSockets get through at {shown}")),
            Some(first) if first.contains("pusher:error") => Finding::problem(id, format!("A WebSocket gets through at {shown}, and is refused: {}", first.chars().take(300).collect::<String>()))
                .why("If the key is not known there, another server answers, or it was started with another file."),
            _ => Finding::problem(id, format!("A WebSocket opens at {shown}, and it is none of this server's")).why("Another server answers at this path.").fix("Let the path lead here:"),
        },
        400 | 426 if answer.is_of_websockets => Finding::problem(id, format!("The proxy at {shown} does not pass the Upgrade header on ({status})"))
            .why("This server is reached, and sees an ordinary request, so no WebSocket opens. nginx passes Upgrade and Connection on only where it is told to.")
            .fix("In the location of this path:")
            .line(format!("nginx, in location {path}"), "proxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"upgrade\";"),
        301 | 302 | 307 | 308 => Finding::problem(id, format!("{shown} redirects to {} ({status})", answer.location.as_deref().unwrap_or("another address")))
            .why("Browsers do not follow redirects of WebSockets.")
            .fix("Let the front end connect to the final address at once; from http to https: forceTLS: true, wssPort: 443."),
        502..=504 => location(
            Finding::problem(id, format!("The proxy at {shown} does not reach this server ({status})"))
                .why(format!("By its file the server is at {local}. It does not run, or proxy_pass leads elsewhere, or (SELinux) the proxy may not open connections: setsebool -P httpd_can_network_connect 1."))
                .fix("See that the server runs, and:"),
        ),
        _ => location(
            Finding::problem(id, format!("{shown} does not lead to this server: the answer is {status}"))
                .why("Most likely the application or the web server itself answers, since nothing says that this path belongs to laravel-echo-server.")
                .fix("Let the path lead here:"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Level;
    use super::*;

    fn judged(app: Answer, socketio: Answer) -> Vec<(&'static str, Level, String)> {
        let subject = Subject::of(json!({"clients": [{"appId": "a", "key": "k"}]}), &[]);
        let url = Url::parse("https://shop.test").unwrap();
        let facts = Facts(Some(Answers { url, app: Some(app), socketio }));
        judge(&subject, &facts).into_iter().map(|finding| (finding.id, finding.level, finding.what)).collect()
    }

    fn open(first: &str) -> Answer {
        Answer { status: Some(101), first: Some(first.to_owned()), ..Answer::default() }
    }

    fn refused(status: u16) -> Answer {
        Answer { status: Some(status), ..Answer::default() }
    }

    fn failed(is_tls: bool) -> Answer {
        Answer { failure: Some("why".to_owned()), is_tls, ..Answer::default() }
    }

    #[test]
    fn what_comes_back() {
        let well = r#"{"event":"pusher:connection_established","data":"{}"}"#;
        let unknown = r#"{"event":"pusher:error","data":{"code":4001}}"#;
        for (answer, level, part) in [
            (open(well), Level::Ok, "get through"),
            (open(unknown), Level::Problem, "is refused: "),
            (open("hello"), Level::Problem, "none of this server's"),
            (Answer { is_of_websockets: true, ..refused(400) }, Level::Problem, "does not pass the Upgrade header on"),
            (refused(400), Level::Problem, "does not lead to this server"),
            (refused(200), Level::Problem, "does not lead to this server"),
            (refused(301), Level::Problem, "redirects"),
            (refused(502), Level::Problem, "does not reach this server"),
        ] {
            let found = judged(answer.clone(), open("0{}"));
            assert_eq!((found[1].0, found[1].1), ("proxy.app", level), "{answer:?}");
            assert!(found[1].2.contains(part), "{found:?}");
            assert_eq!((found[2].0, found[2].1), ("proxy.socketio", Level::Ok));
        }
        // Whoever has no such clients needs no such path.
        assert_eq!(judged(open(well), refused(404))[2].1, Level::Warning);
        let ids = |answer: Answer| {
            judged(answer.clone(), answer).into_iter().map(|(id, level, _)| (id, level)).collect::<Vec<_>>()
        };
        assert_eq!(ids(failed(true)), [("proxy.tls", Level::Problem)]);
        assert_eq!(ids(failed(false)), [("proxy.reach", Level::Problem)]);
    }
}
