// The search of a page that was opened as a file. A browser starts no worker there, so a hidden frame takes its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.importScripts = async (...addresses) => {
        for (const one of addresses) await this.load(one)
      }
      this.inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.ready = this.load(address)
      this.frame = frame
    }

    load(address) {
      return new Promise((loaded, failed) => {
        const script = this.inside.document.createElement("script")
        script.onload = loaded
        script.onerror = failed
        script.src = address
        this.inside.document.head.append(script)
      })
    }

    async postMessage(data) {
      await this.ready
      const event = new this.inside.MessageEvent("message", { data })
      this.inside.dispatchEvent(event)
    }

    terminate() {
      this.frame.remove()
    }
  }
}
