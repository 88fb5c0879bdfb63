#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| laravel_echo_server::fuzzing::run("session", data));
