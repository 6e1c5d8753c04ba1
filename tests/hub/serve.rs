//! The Hub of the tests, for programs in other languages: prints its address, and ends with its input.

fn main() {
    let server = cusae_hub_server::Server::start();
    println!("{}", server.endpoint);
    let _ends = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}
