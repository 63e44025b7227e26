#!/usr/bin/env python3
"""The six options of the original manager against a fota server; standard library only.

    python3 fota_update_manager.py [http://localhost:8080]

FOTA_TOKEN is the operator token, where the server asks for one; FOTA_FIRMWARE names the image
(default .pio/build/esp32dev/firmware.bin). `fota menu` does the same and more.
"""
import base64, hashlib, json, os, sys, time
import urllib.error, urllib.request

FIRMWARE = os.environ.get("FOTA_FIRMWARE", ".pio/build/esp32dev/firmware.bin")
CHUNK_SIZE = 16384
POLL_SECONDS = float(os.environ.get("FOTA_POLL_SECONDS", "5"))


class FOTAUpdateManager:
    def __init__(self, server_url="http://localhost:8080"):
        self.server_url = server_url.rstrip("/")

    def _call(self, path, body=None, timeout=30):
        """The JSON of a successful reply, else None after saying why."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server_url + path, data)
        request.add_header("Content-Type", "application/json")
        if os.environ.get("FOTA_TOKEN"):
            request.add_header("Authorization", "Bearer " + os.environ["FOTA_TOKEN"])
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            return print(f"server: {error.code} {error.read().decode(errors='replace')}")
        except (OSError, ValueError) as error:
            return print(f"no usable answer from {self.server_url}: {error}")

    def read_firmware(self, path=FIRMWARE):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            print(f"cannot read the firmware: {error}")
            return None
        print(f"{path}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
        return data

    def upload_firmware(self, version, data, chunk_size=CHUNK_SIZE, description=""):
        reply = self._call("/api/cloud/fota/upload", {
            "version": version, "size": len(data), "hash": hashlib.sha256(data).hexdigest(),
            "chunk_size": chunk_size, "description": description,
            "firmware_data": base64.b64encode(data).decode()})
        if reply:
            print(f"uploaded {version}: {reply['total_chunks']} chunks of {chunk_size} bytes")
        return bool(reply)

    def trigger_update(self, device_id=None):
        """A seed device asks once per start, so a restart is the trigger."""
        print(f"Restart {device_id or 'the devices'} (EN button): each asks once per start.")
        return self._devices(device_id)

    def _devices(self, only=None):
        reply = self._call("/api/cloud/fota/status") or {"device_status": {}}
        found = {k: v for k, v in reply["device_status"].items() if only in (None, k)}
        for name, state in sorted(found.items()):
            print(f"  {name}: {state['current_version'] or '?'}  {state['state'] or '-'}"
                  f"  {state['progress']:.0f} %  {state['error'] or ''}".rstrip())
        if not found:
            print("  no such device has been seen yet")
        return found

    def check_update_status(self, timeout=300):
        end = time.monotonic() + timeout
        while True:
            found = self._devices()
            if not any(s["updating"] for s in found.values()) or time.monotonic() >= end:
                return found
            time.sleep(POLL_SECONDS)

    def rollback_firmware(self, reason="Manual rollback", device_id=None):
        body = {"reason": reason, "device_id": device_id or "all"}
        reply = self._call("/api/cloud/fota/rollback", body, timeout=10)
        if reply:
            print(reply["message"])
        return bool(reply)

    def verify_update(self, expected, timeout=60, device_id=None):
        """True once the device, or every device that speaks this API, says it runs `expected`."""
        end = time.monotonic() + timeout
        while True:
            found = self._devices(device_id).values()
            if device_id is None:
                found = [state for state in found if state["protocol"] == "seed"]
            if found and all(state["current_version"] == expected for state in found):
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_SECONDS)

    def perform_complete_update(self, version, firmware_path=FIRMWARE, description="",
                                verify=True, auto_rollback=True, timeout=300):
        print(f"# FOTA UPDATE PROCESS - VERSION {version}\nSTEP 1: Reading firmware...")
        data = self.read_firmware(firmware_path)
        print("STEP 2: Uploading firmware...")
        if data is None or not self.upload_firmware(version, data, CHUNK_SIZE, description):
            return False
        print("STEP 3: Triggering update...")
        self.trigger_update()
        print("STEP 4: Monitoring update...")
        self.check_update_status(timeout)
        print("STEP 5: Verifying update...")
        if not verify or self.verify_update(version, timeout):
            return print("UPDATE SUCCESSFUL" if verify else "not verified, as asked") or True
        print("UPDATE VERIFICATION FAILED")
        if auto_rollback:
            print("Initiating automatic rollback...")
            self.rollback_firmware(f"Automatic rollback: {version} was not verified")
        return False


def choose(manager, option):
    if option == "1":
        version, notes = input("Version: "), input("Description (optional): ")
        data = manager.read_firmware()
        return data and manager.upload_firmware(version, data, CHUNK_SIZE, notes)
    if option == "2":
        version, notes = input("Version: "), input("Description: ")
        go = input("Proceed with update? (yes/no): ") == "yes"
        return go and manager.perform_complete_update(version, description=notes)
    if option == "3":
        return manager.trigger_update(input("Device ID (Enter for all): ").strip() or None)
    if option == "4":
        seconds = input("Timeout in seconds (300): ").strip()
        return manager.check_update_status(int(seconds) if seconds.isdecimal() else 300)
    if option == "5":
        return manager.rollback_firmware(input("Reason (Manual rollback): ") or "Manual rollback")
    if option == "6":
        expected = input("Expected version: ").strip()
        return print("verified" if manager.verify_update(expected) else "not verified")
    return print("please give a number from 0 to 6")


if __name__ == "__main__":
    LABELS = ["Upload firmware (quick)", "Perform complete update with verification",
              "Trigger update (manual)", "Monitor update status", "Rollback firmware",
              "Verify current firmware version"]
    menu = "\n".join(f"{n}. {label}" for n, label in enumerate(LABELS, 1)) + "\n0. Exit\n"
    try:
        while (option := input(f"\n{menu}Select option (0-6): ").strip()) != "0":
            choose(FOTAUpdateManager(*sys.argv[1:2]), option)
    except (EOFError, KeyboardInterrupt):
        print()
