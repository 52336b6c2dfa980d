# Remote records through a corrected mapping: shown first, applied as a pull applies, read by id where they are not kept.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use SyncExt::Hub;
use Test::More;

my $hub = SyncExt::Hub->new('main', no_routes => 1);
my $sandbox = $hub->sandbox;
my %auth = (Authorization => "Bearer $SyncExt::Hub::REST_TOKEN");

sub make { my ($name) = @_; return scalar($sandbox->rest(POST => '/customers', { name => $name, email => "$name\@example.com" }, \%auth))->{id} }
sub pull { $hub->sql(q(SELECT sync.request_pull('crm', 'customer'))); return $hub->wait_idle }
sub emails { return $hub->sql('SELECT name, coalesce(billing_email, status) FROM app.customer ORDER BY name') }

my $began = $hub->value('SELECT clock_timestamp()');
my %id = map { $_ => make($_) } qw(ada bob cy);
$hub->sql(q(SELECT sync.create_stream('crm', 'customer')));
pull();
is(emails(), "ada|ada\@example.com\nbob|bob\@example.com\ncy|cy\@example.com", 'pulled');

# ---- the mapping is corrected: the address belongs into another column ----

my $manifest = SyncExt::Hub::manifest('rest');
$manifest =~ s/"version": "1",/"version": "2",/;
$manifest =~ s/"billing_email": \{"\$": "\$\.email", "omit": "null"\}/"billing_email": "lower(\$.email)", "status": "\$.name"/ or die;
$manifest =~ s/"billing_email": "lower\(\$\.email\)"/"billing_email": {"\$": "\$.email", "omit": "null"}/;
$hub->sql("SELECT sync.register_connector(\$manifest\$$manifest\$manifest\$::jsonb)");
$hub->sql("UPDATE app.customer SET status = 'mine' WHERE name = 'bob'");
$hub->sql(q(SELECT sync.set_owner('customer', 'status', 'crm', 'ignore')));
$hub->wait_idle;
my $all = "'crm', 'customer', '$began', clock_timestamp()";
is($hub->sql("SELECT action, field, mirror, mapped, ours, verdict FROM sync.replay_inbound($all) WHERE mapped = '\"ada\"'"),
	'map|status||"ada"|"active"|taken: crm owns it', 'what the mapping would change is shown, field by field');
is($hub->value("SELECT count(*) FROM sync.replay_inbound($all, 'name = ''ada''')"), 1, 'the filter is about the record');
is($hub->value("SELECT count(*) FROM app.customer WHERE status = 'active'"), 2, 'and nothing was changed');
my (undef, undef, $refused) = $hub->node->psql('hub',
	"SELECT sync.replay_inbound($all, '1 / (length(name) - 3) > 0', dry_run => false, reason => 'x')");
like($refused, qr/the filter fails for a record: division by zero.*Filter: 1 \/ .*Nothing is replayed/s,
	'nor by a filter that some record cannot answer');
is($hub->value("SELECT count(*) FROM sync.job WHERE kind LIKE 'replay%'"), 0, 'which leaves no job');

my $job = $hub->sql("SELECT job FROM sync.replay_inbound($all, dry_run => false, reason => 'mapping 2')");
$hub->poll_until("SELECT state = 'done' FROM sync.job WHERE id = $job");
$hub->wait_idle;
is($hub->sql('SELECT name, status FROM app.customer ORDER BY name'), "ada|ada\nbob|bob\ncy|cy", 'applied, the owner\'s value over ours');
is($hub->sql("SELECT done, total, result - 'replay' FROM sync.job WHERE id = $job"), '3|3|{"issued": 3, "skipped": 0}', 'the job says so');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants hold');
is($hub->value("SELECT count(*) FROM sync.replay_inbound($all) WHERE action = 'map'"), 0, 'a second replay has nothing to change');

# ---- never over newer ----

$sandbox->rest(PATCH => "/customers/$id{cy}", { name => 'cyrus' }, \%auth);
$job = $hub->sql("SELECT job FROM sync.replay_inbound($all, dry_run => false, reason => 'again')");
$hub->poll_until("SELECT state = 'done' FROM sync.job WHERE id = $job");
pull();
is($hub->value("SELECT status FROM app.customer WHERE name = 'cyrus'"), 'cyrus', 'what has changed meanwhile is what stands in the end');

# ---- what is not kept is read by id; kill -9 in the middle ----

$hub->sql("UPDATE sync.mirror SET raw = NULL, mapping = NULL");
make("more $_") foreach 1 .. 30;
pull();
$hub->sql("UPDATE sync.mirror SET raw = NULL, mapping = NULL, fields = fields - 'status'");
$hub->sql("UPDATE app.customer SET status = 'wrong'");
is($hub->sql("SELECT DISTINCT action FROM sync.replay_inbound($all)"), 'read', 'what is not kept would be read');
my $offset = $hub->log_size;
$job = $hub->sql("SELECT job FROM sync.replay_inbound($all, dry_run => false, reason => 'by id', rate => '20/s')");
$hub->poll_until("SELECT done BETWEEN 3 AND 25 FROM sync.job WHERE id = $job");
$hub->arm('job-stepped', 'kill');
$hub->wait_crash('job-stepped', $offset);
$hub->wait_running;
$hub->poll_until("SELECT state = 'done' FROM sync.job WHERE id = $job");
$hub->wait_idle;
is($hub->value("SELECT count(*) FROM app.customer WHERE status = 'wrong'"), 0, 'and all of it is');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants hold');

done_testing();
