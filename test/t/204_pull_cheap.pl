# What says nothing new is neither mapped nor written; what an app has locked waits alone; what comes
# through the inbox is counted; pages that were asked for ahead do no harm.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('cheap', systems => []);
my $sandbox = $hub->sandbox;
my $node = $hub->node;

# The plain vendor's manifest with small pages; `name` is what the canonical name is read from.
sub register
{
	my ($version, $name) = @_;
	my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));
	my $pull = $manifest->{objects}{customer}{pull};

	@$manifest{qw(name version)} = ('paged', $version);
	$pull->{list}{page_size} = 5;
	$pull->{fields}{name} = $name;
	my $text = $json->encode($manifest);
	$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb)");
	return;
}

sub make { my (%data) = @_; return $sandbox->rest(POST => '/customers', \%data)->{id} }
sub change { my ($id, %data) = @_; $sandbox->rest(PATCH => "/customers/$id", \%data); return }
sub ask { $hub->sql(q(SELECT sync.request_pull('crm', 'customer'))); return }
sub status { my ($column) = @_; return $hub->value("SELECT $column FROM sync.stream_status") }
sub name_of
{
	my ($id) = @_;
	return $hub->value("SELECT c.name FROM app.customer c JOIN sync.external_id x ON x.record_id = c.id::text WHERE x.remote_id = '$id'");
}

sub pull
{
	ask();
	$hub->wait_idle;
	return;
}

# A stream that has read nothing yet lists everything.
sub list_all
{
	$hub->sql(q(SELECT sync.drop_stream('crm', 'customer'); SELECT sync.create_stream('crm', 'customer')));
	pull();
	return;
}

# Which row versions stand in the tables of a page.
sub versions
{
	return $hub->sql(q(SELECT m.remote_id, m.xmin, x.xmin, c.xmin FROM sync.mirror m
		JOIN sync.external_id x USING (system_id, object_id, remote_id)
		JOIN app.customer c ON c.id::text = x.record_id ORDER BY 1));
}

register('1.0.0', '$.name');
$node->secret('crm', 'token', $SyncExt::Hub::REST_TOKEN);
$hub->sql("CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'paged',
		base_url '" . $sandbox->url . "', settle_time '300 ms', rate_limit '1000/s', timeout '3 s');
	CREATE USER MAPPING FOR PUBLIC SERVER crm OPTIONS (token 'file:token');
	SELECT sync.create_route('crm', 'customer');
	SELECT sync.create_stream('crm', 'customer')");

# ---- nothing new ----

my @id = map { make(name => "Customer $_", email => "c$_\@example.com") } 1 .. 23;
pull();
is($hub->value('SELECT count(*) FROM app.customer'), 23, 'five pages are read');
my $before = versions();
list_all();
is(versions(), $before, 'read again, they write no row');
cmp_ok(status('records'), '>=', 23, 'and are counted as read');
is(status('applied'), 0, 'not as applied');
is($hub->value(q(SELECT count(*) FROM sync.notice WHERE key LIKE 'pull.deletes%')), 0,
	'a vendor that tells of deletes is not searched for them');

# The mirror knows of which mapping its fields are, so a new mapping reads the same records anew.
register('1.1.0', '$.email');
$hub->wait_idle;
list_all();
is(name_of($id[3]), 'c4@example.com', 'a new mapping of the same record is applied');
register('1.2.0', '$.name');
$hub->wait_idle;
list_all();
is(name_of($id[3]), 'Customer 4', 'and the next one');

# A push without an answer that holds the record makes the mirror differ from the mapped record. What
# is then listed as it was before the push must be looked at, although raw is the same.
my $record = $hub->value("SELECT record_id FROM sync.external_id WHERE remote_id = '$id[6]'");
$hub->sql("UPDATE app.customer SET name = 'Pushed' WHERE id = '$record'");
$hub->wait_idle;
is($hub->value("SELECT mapping IS NULL FROM sync.mirror WHERE remote_id = '$id[6]'"), 't', 'a push makes the mapping unknown');
change($id[6], name => 'Customer 7');
pull();
is(name_of($id[6]), 'Customer 7', 'a change back at the other side is taken');

# ---- a row that an app has locked ----

my $app = $node->background_psql($hub->database);
my $locked = $hub->value("SELECT record_id FROM sync.external_id WHERE remote_id = '$id[1]'");
$app->query_safe("BEGIN; SELECT FROM app.customer WHERE id = '$locked' FOR UPDATE;");
change($id[$_], name => "Changed $_") foreach 0 .. 3;
ask();
$hub->poll_until(q(SELECT sqlstate = '55P03' FROM sync.inbox_status), 30);
# A poll may have begun between two of the changes, so that they come in two pages.
foreach my $i (0, 2, 3)
{
	$hub->poll_until("SELECT EXISTS (SELECT FROM app.customer c JOIN sync.external_id x ON x.record_id = c.id::text
		WHERE x.remote_id = '$id[$i]' AND c.name = 'Changed $i')", 30);
	pass("record $i is not held up by a locked one");
}
is(name_of($id[1]), 'Customer 2', 'the locked one waits');
is(status('failures'), 0, 'which is no failure of the stream');
$app->query_safe('COMMIT;');
$app->quit;
$hub->poll_until(q(SELECT count(*) = 0 FROM sync.inbox_status), 30);
is(name_of($id[1]), 'Changed 1', 'and follows when the app has ended');
$hub->wait_idle;

# ---- counts ----

my $applied = status('applied');
$hub->sql('ALTER TABLE app.customer ADD CONSTRAINT no_rude_name CHECK (name <> \'Rude\')');
change($id[9], name => 'Rude');
pull();
is($hub->value('SELECT sqlstate FROM sync.inbox_status'), '23514', 'a check refuses one');
is(status('applied'), $applied, 'which is not counted as applied');
$hub->sql('ALTER TABLE app.customer DROP CONSTRAINT no_rude_name; SELECT sync.retry_inbox()');
$hub->poll_until(q(SELECT count(*) = 0 FROM sync.inbox_status), 30);
is(name_of($id[9]), 'Rude', 'later it is');
is(status('applied') - $applied, 1, 'and then counts as applied');

# ---- pages ahead ----

# The second page of five fails while the first is applied: nothing is lost or skipped.
change($_, name => 'Ahead') foreach @id;
$sandbox->fault(match => { path => '/rest/customers', method => 'GET', exact => \1, nth => 2 }, kind => 'status', status => 503,
	body => 'no');
pull();
$hub->poll_until(q(SELECT count(*) = 23 FROM app.customer WHERE name = 'Ahead'), 60);
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name = 'Ahead')), 23, 'a page that fails ahead is asked for again');
$sandbox->clear_faults;
$hub->wait_idle;

# A stream that goes while its pages are out leaves nothing behind.
change($_, name => 'Dropped') foreach @id;
$sandbox->fault(match => { path => '/rest/customers', method => 'GET', exact => \1 }, kind => 'latency', ms => 300, times => -1);
ask();
$hub->poll_until(q(SELECT count(*) > 0 FROM app.customer WHERE name = 'Dropped'), 30);
$hub->sql(q(SELECT sync.drop_stream('crm', 'customer'); SELECT sync.create_stream('crm', 'customer')));
$sandbox->clear_faults;
pull();
is($hub->value(q(SELECT count(*) FROM app.customer WHERE name = 'Dropped')), 23, 'dropped and made anew in the middle of a walk');
is($hub->sql('SELECT * FROM sync.check_invariants()'), '', 'invariants');

$node->stop;
done_testing();
