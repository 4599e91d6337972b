# The compliance agent on its own: it starts, answers, notices a violation and survives its own hang.
{
  name = "compliance-agent";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ../../modules ];

      environment.systemPackages = [ pkgs.socat ];

      appliance = {
        enable = true;
        identity.enable = true;
        # The virtual machine's watchdog is QEMU's business.
        watchdog.enable = false;
      };
      services.compliance-agent.enable = true;
    };

  testScript = # python
    ''
      import json

      API = "curl --silent --show-error --fail --max-time 30 --unix-socket /run/compliance-agent/api.sock http://agent"

      def checks():
          machine.succeed(f"{API}/v1/checks/run -X POST > /dev/null")
          return {check["check_id"]: check for check in json.loads(machine.succeed(f"{API}/v1/checks"))}

      machine.wait_for_unit("compliance-agent.service")
      machine.wait_for_file("/run/compliance-agent/api.sock")

      with subtest("The API is for the appliance's own services only"):
          machine.succeed("stat --format %a:%G /run/compliance-agent/api.sock | grep -x 660:appliance-local")
          machine.fail(f"runuser -u nobody -- {API}/v1/status")

      with subtest("Every check yields a verdict with a reason"):
          results = checks()
          assert len(results) >= 16, sorted(results)
          assert all(result["reason"] for result in results.values()), results

      with subtest("Evidence is written, signed and verifiable without the server"):
          machine.wait_until_succeeds(f"{API}/v1/evidence | grep sequence")
          machine.succeed("compliance-agent evidence verify")

      with subtest("A port nobody declared is a finding"):
          before = [key for key, value in checks().items() if value["verdict"] == "fail"]
          machine.succeed("systemd-run --unit=stray --service-type=exec $(type -P socat) TCP-LISTEN:2323,fork -")
          machine.wait_for_open_port(2323)
          machine.succeed("systemctl start compliance-agent-collect.service")
          after = [key for key, value in checks().items() if value["verdict"] == "fail"]
          assert set(after) - set(before), (before, after)
          machine.succeed("systemctl stop stray.service")

      with subtest("A stuck agent is started again by the service manager's watchdog"):
          pid = machine.succeed("systemctl show --property MainPID --value compliance-agent.service").strip()
          machine.succeed(f"kill -STOP {pid}")
          machine.wait_until_fails(f"test -d /proc/{pid}", timeout=600)
          machine.wait_for_unit("compliance-agent.service")
          machine.wait_until_succeeds(f"{API}/v1/status")

      with subtest("The unit is locked down"):
          exposure = machine.succeed("systemd-analyze security --no-pager compliance-agent.service | tail -n 1")
          assert float(exposure.split()[-3]) <= 4.0, exposure
    '';
}
