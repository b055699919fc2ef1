"""A cluster in a few lines: tables, the leader's loop over `decide`, and agents that report what they are told to run."""

from collections.abc import Callable

from kago.core.controllers.eviction import Liveness
from kago.core.model.deployment import Deployment, DeploymentPatch, DeploymentSpec, RollingUpdate, Runtime, Strategy
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.report import PodReport, Registration
from kago.core.model.resources import Resources
from kago.core.reconcile import Reconciler, Round
from kago.core.state.commands import (
    AnyCommand,
    ClaimLeadership,
    CreateDeployment,
    NodeReport,
    RegisterNode,
    ReportPods,
    UpdateDeployment,
)
from kago.core.state.machine import decide
from kago.core.state.rejections import Accepted, Reply
from kago.core.state.tables import Tables

MAX_ROUNDS = 60


class SmallWorld:
    def __init__(self, *, strategy: Strategy = Strategy.FIRST_FIT, node_gc_s: float = 1000.0, tables: Tables | None = None) -> None:
        self.tables = tables or Tables()
        self.now = 1000.0
        self.ahead_s = 0.0
        """How far the clocks of the servers that take commands are ahead of the leader's."""
        self.liveness = Liveness()
        self.heals: Callable[[Pod], bool] = lambda pod: True
        """Whether this pod becomes ready once it runs."""
        self.watch: Callable[[], None] = lambda: None
        """Called after every entry."""
        self.reconciler = Reconciler(strategy=strategy, node_gc_s=node_gc_s)
        self.reconciler.reset(self.tables)
        self.do(ClaimLeadership(server="s1", term=1, cluster_id="small"))

    def do(self, command: AnyCommand) -> Reply:
        index = self.tables.index + 1
        changes, reply = decide(self.tables, command, at=self.now + self.ahead_s, index=index)
        self.tables.absorb(index, changes)
        self.reconciler.observe(changes)
        self.watch()
        return reply

    def node(self, name: str, *, cpu: int = 1000, memory: int = 1024, labels: dict[str, str] | None = None, incarnation: int = 1) -> None:
        registration = Registration(
            name=name, id=f"id-{name}", incarnation=incarnation, address="127.0.0.1", port=8081, labels=labels or {},
            capacity=Resources(cpu_millis=cpu, memory_mb=memory), runtimes=(Runtime.DOCKER,),
        )
        assert isinstance(self.do(RegisterNode(registration=registration)), Accepted)

    def deployment(self, name: str = "web", *, replicas: int = 3, cpu: int = 100, rolling: RollingUpdate | None = None,
                   scheduler: Strategy | None = None, selector: dict[str, str] | None = None) -> None:
        spec = DeploymentSpec(
            name=name, image="nginx:1", replicas=replicas, resources=Resources(cpu_millis=cpu, memory_mb=cpu), scheduler=scheduler,
            rolling_update=rolling or RollingUpdate(), node_selector=selector or {},
        )
        assert isinstance(self.do(CreateDeployment(spec=spec)), Accepted)

    def update(self, patch: DeploymentPatch, name: str = "web") -> None:
        assert isinstance(self.do(UpdateDeployment(name=name, patch=patch)), Accepted)

    def web(self) -> Deployment:
        return self.tables.deployments["web"]

    def live(self, name: str = "web") -> list[Pod]:
        return [pod for pod in self.tables.pods_of_deployment(name) if pod.live]

    def round(self) -> Round:
        return self.reconciler.round(self.tables, self.liveness, now=self.now, monotonic=self.now)

    def lead(self) -> Round:
        """Rounds until one has nothing to do; the last one."""
        for _ in range(MAX_ROUNDS):
            decided = self.round()
            if not decided.commands:
                return decided
            for command in decided.commands:
                reply = self.do(command)
                assert isinstance(reply, Accepted), (command, reply)
        raise AssertionError("the rounds do not end")

    def agents(self, *, deaf: tuple[str, ...] = ()) -> bool:
        """Every agent takes each of its pods one step further; whether anything moved."""
        index = self.tables.index
        before = [pod.version for pod in self.tables.pods.values()]
        for node in sorted(self.tables.nodes.values(), key=lambda node: node.name):
            pods = [self._report(pod) for pod in self.tables.pods_of_node(node.name) if node.name not in deaf]
            for pod in pods:
                report = NodeReport(node_name=node.name, node_id=node.id, incarnation=node.incarnation, pods=(pod,))
                self.do(ReportPods(reports=(report,)))
        assert self.tables.index >= index
        return before != [pod.version for pod in self.tables.pods.values()]

    def settle(self, *, deaf: tuple[str, ...] = ()) -> None:
        """Leader, agents and clock in turn, until nothing moves and nothing is waited for that comes within a minute."""
        for _ in range(200):
            decided = self.lead()
            if self.agents(deaf=deaf):
                self.now += 0.3
            elif decided.wake_at is not None and decided.wake_at <= self.now + 60:
                self.now = max(decided.wake_at, self.now + 0.01)
            else:
                assert self.round().commands == ()
                return
        raise AssertionError("it never settles")

    def _report(self, pod: Pod) -> PodReport:
        if not pod.live:
            return PodReport(pod_id=pod.id, status=PodStatus.TERMINATED)
        if pod.status is PodStatus.PENDING:
            return PodReport(pod_id=pod.id, status=PodStatus.CREATING)
        return PodReport(pod_id=pod.id, status=PodStatus.RUNNING, ready=self.heals(pod))
