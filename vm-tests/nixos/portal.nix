# The local portal: reachable from the clinic by HTTPS, claimed by the code on the console.
{
  name = "local-portal";

  nodes = {
    appliance = {
      imports = [ ../../modules ];
      appliance = {
        enable = true;
        identity.enable = true;
        network.enable = false;
        watchdog.enable = false;
      };
      services.local-portal.enable = true;
    };

    clinic =
      { pkgs, ... }:
      {
        environment.systemPackages = [ pkgs.curl ];
      };
  };

  testScript = # python
    ''
      start_all()
      appliance.wait_for_unit("local-portal.socket")
      appliance.wait_for_open_port(443)
      clinic.wait_for_unit("multi-user.target")

      with subtest("It says it is healthy, to anybody who asks for no more"):
          appliance.succeed("curl --silent --insecure --fail --max-time 30 https://localhost:443/healthz | grep -x ok")

      with subtest("The clinic reaches it through the firewall, with the site's own authority"):
          appliance.succeed("local-portal ca --pem > /tmp/shared-ca.pem")
          appliance.copy_from_machine("/tmp/shared-ca.pem", "ca")
          address = appliance.succeed("hostname --all-ip-addresses").split()[-1]
          status = clinic.succeed(
              f"curl --silent --insecure --output /dev/null --write-out '%{{http_code}}' --max-time 30 https://{address}/"
          )
          assert status in ("200", "302", "303"), status

      with subtest("Without its other services it still answers"):
          appliance.fail("test -e /run/compliance-agent/api.sock")
          appliance.succeed("curl --silent --insecure --fail --location --max-time 30 https://localhost/ > /dev/null")

      with subtest("Root can read the claim code, others cannot"):
          assert appliance.succeed("local-portal claim-code").strip()
          appliance.fail("runuser -u nobody -- local-portal claim-code")

      with subtest("A forged host name is refused"):
          appliance.fail("curl --silent --insecure --fail --max-time 30 --header 'Host: evil.example' https://localhost/")
    '';
}
