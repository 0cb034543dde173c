//! `cilium-cni`: called by container runtimes; see [`cilium_cni`].

use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let env = cilium_cni::attachment::Environment::from_vars(std::env::vars());
    let mut input = Vec::new();
    if env.command != "VERSION"
        && let Err(e) = std::io::stdin().take(cilium_cni::wire::MAX_MESSAGE as u64).read_to_end(&mut input)
    {
        eprintln!("cilium-cni: standard input: {e}");
    }
    match cilium_cni::plugin::run(&env, &input) {
        Ok(Some(result)) => println!("{result}"),
        Ok(None) => {}
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
